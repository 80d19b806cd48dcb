"""A language model's tokenizer, from the files of a Hugging Face directory, and its chat template."""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from experiments.data.chat_templates import reads_clock, render_template
from experiments.data.text_files import read_json, read_text

# For models without a template: a prompt that ends where the answer's first space begins, so that no token spans both. A
# tokenizer that begins every text with a token of its own does so here too.
PLAIN = (
    "{% for message in messages %}{% if message.role == 'user' %}Question: {{ message.content }}\nAnswer:"
    "{% elif message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
BEGUN = "{{ bos_token }}" + PLAIN
SPECIALS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to token numbers and back, and the tokens that have a meaning of their own.

    Attributes:
      encoder: the tokenizer itself.
      end: the token that ends an answer.
      pad: the token that fills up; it may be `end`, as padding is told by masks, never by this number.
      specials: the texts of special tokens by name (`bos_token`, `eos_token`, ...), for templates.
      template: a Jinja template of `messages` as Hugging Face defines them.
      system_prompt: the system's message before every conversation. None: no such message.
      date_string: the date that a template puts into its prompt, such as `26 Jul 2024`. None: the template's own default, which
        in some is the day on which it runs.
      tools: descriptions of functions, for templates that list them.
    """

    encoder: tokenizers.Tokenizer
    end: int
    pad: int
    specials: Mapping[str, str]
    template: str = PLAIN
    system_prompt: str | None = None
    date_string: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token numbers. With `special`, those that the tokenizer puts around a text by itself too (a beginning token, say)."""
        return self.encoder.encode(text, add_special_tokens=special).ids

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """The text, with or without special tokens."""
        return self.encoder.decode([int(token) for token in tokens], skip_special_tokens=not special)

    def render(self, messages: Sequence[Mapping[str, str]], *, prompt: bool) -> str:
        """A conversation as one text, as transformers' `apply_chat_template` renders it.

        Args:
          messages: the conversation, after the system prompt.
          prompt: whether the text ends where the answer begins.

        Returns:
          The text.

        Raises:
          ValueError: if the template is wrong, refuses the conversation, or fails in any other way.
        """
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        dated = {} if self.date_string is None else {"date_string": self.date_string}
        conversation = {"messages": [*system, *messages], "tools": self.tools, "documents": None}
        return render_template(self.template, {**conversation, "add_generation_prompt": prompt, **self.specials, **dated})


def load(
    directory: str | os.PathLike[str],
    *,
    template: str | None = None,
    system_prompt: str | None = None,
    date_string: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Tokenizer:
    """Reads `tokenizer.json` and `tokenizer_config.json`.

    As in transformers 5, texts are encoded whole whatever truncation and padding `tokenizer.json` asks for; and what is put
    around a plain text is what `tokenizer.json` says, whatever `add_bos_token` in `tokenizer_config.json`.

    Args:
      directory: a Hugging Face model directory.
      template: a chat template instead of the directory's own, which is `chat_template.jinja` or in `tokenizer_config.json`;
        without any it is `PLAIN`.
      system_prompt: as in `Tokenizer`.
      date_string: as in `Tokenizer`. Without it a template that reads the clock is warned of: its prompts change every day.
      tools: as in `Tokenizer`.

    Returns:
      The tokenizer. Answers end with `eos_token`; without `pad_token` that fills up too.

    Raises:
      FileNotFoundError: if one of the two files is missing.
      ValueError: naming the file, for one that cannot be read; if there is no `eos_token`, or a special token that is not in
        the vocabulary; for a system prompt or a date that the template leaves out.
    """
    directory = Path(directory).expanduser()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"directory: got {directory}, expected one that holds {name}")
    settings = read_json(directory / "tokenizer_config.json")
    template_file = directory / "chat_template.jinja"
    where = f"{directory / 'tokenizer_config.json'}, chat_template"
    chosen = template or (
        read_text(template_file) if template_file.is_file() else _default(settings.get("chat_template"), where)
    )
    if chosen is not None and reads_clock(chosen, date_string):
        remedy = "date_string fixes the date" if "date_string" in chosen else "it has no date_string to fix the date"
        message = f"{directory}: the chat template reads the clock, and its prompts differ from day to day: {remedy}"
        warnings.warn(message, stacklevel=2)
    encoder = _encoder(directory / "tokenizer.json")
    specials = _specials(settings, directory / "tokenizer_config.json")
    _mark_special(encoder, specials.values())
    return build(encoder, specials, template=chosen, system_prompt=system_prompt, date_string=date_string, tools=tools)


def build(
    encoder: tokenizers.Tokenizer,
    specials: Mapping[str, str],
    *,
    template: str | None = None,
    system_prompt: str | None = None,
    date_string: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Tokenizer:
    """A tokenizer of parts in memory: see `load`.

    Raises:
      ValueError: as `load`, and for a system prompt or a date that the template leaves out.
    """
    if "eos_token" not in specials:
        raise ValueError(f"specials: got {', '.join(specials) or 'none'}, expected eos_token among them: it ends an answer")
    numbers = {name: encoder.token_to_id(text) for name, text in specials.items()}
    for name, number in numbers.items():
        if number is None:
            raise ValueError(f"specials: got {name} = {specials[name]!r}, expected a token of the vocabulary")
    end = numbers["eos_token"]
    begins = "bos_token" in numbers and encoder.encode("", add_special_tokens=True).ids[:1] == [numbers["bos_token"]]
    chosen = template or (BEGUN if begins else PLAIN)
    pad = numbers.get("pad_token", end)
    tokenizer = Tokenizer(encoder, end, pad, dict(specials), chosen, system_prompt, date_string, tools)
    for name, text in (("system_prompt", system_prompt), ("date_string", date_string)):
        if text is not None and text.strip() not in tokenizer.render([{"role": "user", "content": "?"}], prompt=True):
            raise ValueError(f"{name}: got {text!r}, which the model's chat template leaves out, expected None")
    return tokenizer


def _encoder(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a `tokenizer.json`, which neither truncates nor pads."""
    text = read_text(path)
    try:
        encoder = tokenizers.Tokenizer.from_str(text)
        encoder.encode("a", add_special_tokens=True)  # what is put around a text is looked up here
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises Exception itself, and a panic of Rust is no Exception
        raise ValueError(f"{path}: got what the tokenizers library does not read ({error}), expected a tokenizer") from error
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _specials(settings: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The special tokens by name: texts, or texts with properties. Other values, such as `add_bos_token`, are no tokens."""
    tokens: dict[str, str] = {}
    for name, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str) and content:
            tokens[name] = content
        elif name in SPECIALS and value is not None and content != "":
            raise ValueError(f"{path}: got {name}={value!r}, expected a text, or an object with `content`")
    return tokens


def _mark_special(encoder: tokenizers.Tokenizer, texts: Iterable[str]) -> None:
    """Has the special tokens of the vocabulary found in texts whole, as transformers does, where `tokenizer.json` does not."""
    known = {token.content for token in encoder.get_added_tokens_decoder().values()}
    new = [text for text in texts if text not in known and encoder.token_to_id(text) is not None]
    encoder.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in new])


def _default(templates: Any, where: str) -> str | None:
    """The chat template, the default one where there are several."""
    if isinstance(templates, list):
        named = [one for one in templates if isinstance(one, dict) and one.get("name") == "default"]
        templates = named[0].get("template") if named else None
    if templates is not None and not isinstance(templates, str):
        raise ValueError(f"{where}: got {type(templates).__name__}, expected a text, or a list of named texts")
    return templates
