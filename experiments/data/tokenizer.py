"""A language model's tokenizer, from the files of a Hugging Face directory, and its chat template."""

import contextvars
import dataclasses
import datetime
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import tokenizers

from experiments.data.text_files import read_json, read_text

MOST_WORK = 1_000_000  # how many repetitions a template may need: templates come from strangers
_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("left")
# For models without a template: a prompt that ends where the answer's first space begins, so that no token spans both.
PLAIN = (
    "{% for message in messages %}{% if message.role == 'user' %}Question: {{ message.content }}\nAnswer:"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to token numbers and back, and the tokens that have a meaning of their own.

    Attributes:
      encoder: the tokenizer itself.
      end: the token that ends an answer.
      pad: the token that fills up; it may be `end`, as padding is told by masks, never by this number.
      specials: the texts of special tokens by name (`bos_token`, `eos_token`, ...), for templates.
      template: a Jinja template of `messages` as Hugging Face defines them.
      system_prompt: the text of a system message before the question. None: no such message.
      date_string: the date that templates such as Llama 3.2's write. None: the template's own choice, which may be today's.
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
        """A conversation as one text; with `prompt` up to where the answer begins.

        Raises:
          ValueError: if the template is wrong, or refuses the conversation.
        """
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        date = {} if self.date_string is None else {"date_string": self.date_string}
        values = {"messages": [*system, *messages], "tools": self.tools, "documents": None, "add_generation_prompt": prompt}
        _left.set([MOST_WORK])
        try:
            return _compiled(self.template).render(**values, **date, **self.specials)
        except Exception as error:  # a template is a program: it can fail with any
            reason = f"{error} ({type(error).__name__})"
            raise ValueError(f"template: got one that fails with {reason}, expected a Jinja chat template") from error


def load(
    directory: str | os.PathLike[str],
    *,
    template: str | None = None,
    system_prompt: str | None = None,
    date_string: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Tokenizer:
    """Reads `tokenizer.json` and `tokenizer_config.json`.

    Args:
      directory: a Hugging Face model directory.
      template: a chat template instead of the directory's own, which is `chat_template.jinja` or in `tokenizer_config.json`;
        without any it is `PLAIN`, after a beginning token if the tokenizer puts one before texts.
      system_prompt: as in `Tokenizer`.
      date_string: likewise.
      tools: likewise.

    Returns:
      The tokenizer. Answers end with `eos_token`; without `pad_token` that fills up too.

    Raises:
      FileNotFoundError: if one of the two files is not there.
      ValueError: if there is no `eos_token`, or a special token that is not in the vocabulary.
    """
    directory = Path(directory).expanduser()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"directory: got {directory}, expected one that holds {name}")
    settings = read_json(directory / "tokenizer_config.json")
    own = directory / "chat_template.jinja"
    found = read_text(own) if own.is_file() else _named(settings.get("chat_template"))
    specials = {name: text for name, value in settings.items() if name.endswith("_token") and (text := _content(value))}
    read_json(directory / "tokenizer.json")  # its errors name the file
    try:
        encoder = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # the library raises no other class
        raise ValueError(f"{directory / 'tokenizer.json'}: got a file that fails with {error}, expected a tokenizer") from error
    built = build(encoder, specials, template=template or found, begin=settings.get("add_bos_token") is True)
    return dataclasses.replace(built, system_prompt=system_prompt, date_string=date_string, tools=tools)


def build(
    encoder: tokenizers.Tokenizer, specials: Mapping[str, str], *, template: str | None = None, begin: bool = False
) -> Tokenizer:
    """A tokenizer of parts that are there already: see `load`. With `begin`, `PLAIN` begins with `bos_token`."""
    encoder.no_truncation()  # tokenizer.json may hold both: lengths are decided by `tokenise`
    encoder.no_padding()
    if "eos_token" not in specials:
        raise ValueError(f"specials: got {', '.join(specials) or 'none'}, expected eos_token among them: it ends an answer")
    numbers = {name: encoder.token_to_id(text) for name, text in specials.items()}
    for name, number in numbers.items():
        if number is None:
            raise ValueError(f"specials: got {name} = {specials[name]!r}, expected a token of the vocabulary")
    end = numbers["eos_token"]
    first = numbers.get("bos_token")
    begin = first is not None and (begin or encoder.encode("a").ids[:1] == [first])
    plain = "{{ bos_token }}" + PLAIN if begin else PLAIN
    return Tokenizer(encoder, end, numbers.get("pad_token", end), dict(specials), template or plain)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox in which a template's loops, calls and products are bounded: see `MOST_WORK`."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call(self, *args: Any, **kwargs: Any) -> Any:
        _spend(1)
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _spend(abs(int(right)) * 64)
        elif operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("string formatting with %, which is not allowed")
        elif operator == "*" and not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
            _spend(abs(int(left if isinstance(left, (int, float)) else right)) * max(_size(left), _size(right)))
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> int:
    """The length of a text or list, 1 of anything else."""
    return len(value) if hasattr(value, "__len__") else 1


def _spend(work: int) -> None:
    """Counts what a template does."""
    left = _left.get()
    left[0] -= work
    if left[0] < 0:
        raise jinja2.TemplateError(f"more than {MOST_WORK} repetitions")


def _bounded(items: Any) -> list[Any]:
    """What a loop goes through."""
    found = list(items)
    _spend(len(found))
    return found


@functools.cache
def _compiled(template: str) -> jinja2.Template:
    """A template, once: compiling takes longer than rendering. As in transformers, a stranger's runs in a sandbox."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["bounded"] = _bounded
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    tree = environment.parse(template)
    for loop in list(tree.find_all(jinja2.nodes.For)):
        loop.iter = jinja2.nodes.Filter(loop.iter, "bounded", [], [], None, None, lineno=loop.lineno, environment=environment)
    code: Any = environment.compile(cast(Any, tree))
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def _refuse(message: str) -> NoReturn:
    """What templates call for conversations that they can't render."""
    raise jinja2.TemplateError(message)


def _content(value: Any) -> str | None:
    """The text of a special token, which the file may hold with its properties; `add_bos_token: true` is none."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _named(templates: Any) -> str | None:
    """The default one where there are several."""
    if isinstance(templates, list):
        return next((one["template"] for one in templates if one["name"] == "default"), None)
    return templates
