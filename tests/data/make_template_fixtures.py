"""Makes `templates.json`: what transformers renders and encodes, of small chat templates and tokenizers.

    python tests/data/make_template_fixtures.py

Made with transformers 5.24.0, jinja2 3.1.6.
"""

import itertools
import json
import tempfile
from pathlib import Path

import tokenizers
import transformers

OUT = Path(__file__).parent / "templates.json"
TURNS = "{%- for m in messages %}<{{ m['role'] }}>{{ m.content | trim }}{{ eos_token }}\n{%- endfor %}"
GENERATION = "{%- if add_generation_prompt %}<assistant>{%- endif %}"
TEMPLATES = {
    # As Llama 3.2's: a date by default of the clock, a system message first, tools that may be none.
    "date": (
        "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('no date %%') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        "{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
        "<system>{%- if tools is not none %}Environment: ipython\n{%- endif %}"
        "Today Date: {{ date_string }}\n\n{{ system_message }}{{ eos_token }}\n" + TURNS + GENERATION
    ),
    "tools": (
        "{%- if tools is defined and tools is not none %}T{%- elif tools is defined %}N{%- else %}U{%- endif %}"
        "{%- if documents is none %}D{%- endif %}" + TURNS + GENERATION
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
        "{% else %}<{{ m.role }}>\n{{ m.content }}\n{% endif %}\n{% endfor %}" + GENERATION
    ),
    "json": (
        "{% set ns = namespace(n=0, s='') %}{% for m in messages %}"
        "{% if loop.first and m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ loop.index0 ~ '/' ~ loop.length %}"
        "{{ m | tojson(indent=2) }}{{ m | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}{% endfor %}"
        "{{ ns.n }}{{ ns.s }}{{ messages | map(attribute='role') | join(', ') }}{{ '%03d' % 7 }}{{ 'ab' * 3 }}{{ 2 ** 3 }}\n"
    ),
    "macro": (
        "{% macro turn(m, last=false) %}<{{ m['role'] | upper }}>{{ m.content.split('</t>')[-1].strip() | replace('\n', ' ') }}"
        "{% if last %}!{% endif %}{% endmacro %}"
        "{% for m in messages if m.role != 'system' %}{{ turn(m, last=loop.last) }}{% endfor %}"
        "{{ messages | selectattr('role', 'equalto', 'system') | list | length }}{{ dict(a=1).a }}{{ undefined_name }}"
    ),
}
CHAT = [{"role": "user", "content": ' Wer war\'s?\nZoë </t> "x" <b> '}, {"role": "assistant", "content": "Niemand.\n"}]
OPTIONS = [
    {"system_prompt": system, "date_string": date}
    for system, date in itertools.product((None, "You are a helpful assistant."), (None, "10 Apr 2025"))
]
WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "c": 5, "<pad>": 6}


def rendered():
    """Texts of every template, with every option."""
    cases = []
    for (name, template), options, prompt in itertools.product(TEMPLATES.items(), OPTIONS, (True, False)):
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=encoder(), bos_token="<s>", eos_token="</s>")
        system = [{"role": "system", "content": options["system_prompt"]}] if options["system_prompt"] else []
        date = {"date_string": options["date_string"]} if options["date_string"] else {}
        text = tokenizer.apply_chat_template(
            [*system, *CHAT[: 1 if prompt else 2]], chat_template=template, tokenize=False, add_generation_prompt=prompt, **date
        )
        cases.append({"template": name, **options, "prompt": prompt, "text": text})
    return cases


def encoder(begins=False):
    """Words divided by spaces."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if begins:
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def encoded():
    """A plain text's tokens, for settings and tokenizers that put tokens around it, or cut it off, or fill it up."""
    cases = []
    for begins, add_bos, add_eos in itertools.product((False, True), (None, False, True), (None, True)):
        made = encoder(begins)
        made.enable_truncation(2)
        made.enable_padding(length=9, pad_id=6, pad_token="<pad>")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        settings["eos_token"] = {"__type": "AddedToken", "content": "</s>", "special": True}
        asked = {"add_bos_token": add_bos, "add_eos_token": add_eos}
        settings |= {name: value for name, value in asked.items() if value is not None}
        with tempfile.TemporaryDirectory() as directory:
            made.save(str(Path(directory) / "tokenizer.json"))
            (Path(directory) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
            tokens = tokenizer("a b c a b c")["input_ids"]
            inner = tokenizer("a b c a b c", add_special_tokens=False)["input_ids"]
        cases.append({"tokenizer": json.loads(made.to_str()), "settings": settings, "tokens": tokens, "inner": inner})
    return cases


if __name__ == "__main__":
    made = {"chat": CHAT, "templates": TEMPLATES, "rendered": rendered(), "encoded": encoded()}
    OUT.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
