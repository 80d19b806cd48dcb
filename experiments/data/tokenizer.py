"""A language model's tokenizer, from the files of a Hugging Face directory, and its chat template."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from experiments.data.text_files import read_json, read_text

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
    """

    encoder: tokenizers.Tokenizer
    end: int
    pad: int
    specials: Mapping[str, str]
    template: str = PLAIN

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
        try:
            return _compiled(self.template).render(messages=messages, add_generation_prompt=prompt, **self.specials)
        except jinja2.TemplateError as error:
            raise ValueError(f"template: got one that fails with {error}, expected a Jinja chat template") from error


def load(directory: str | os.PathLike[str], *, template: str | None = None) -> Tokenizer:
    """Reads `tokenizer.json` and `tokenizer_config.json`.

    Args:
      directory: a Hugging Face model directory.
      template: a chat template instead of the directory's own, which is `chat_template.jinja` or in `tokenizer_config.json`;
        without any it is `PLAIN`.

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
    return build(encoder, specials, template=template or found)


def build(encoder: tokenizers.Tokenizer, specials: Mapping[str, str], *, template: str | None = None) -> Tokenizer:
    """A tokenizer of parts that are there already: see `load`."""
    if "eos_token" not in specials:
        raise ValueError(f"specials: got {', '.join(specials) or 'none'}, expected eos_token among them: it ends an answer")
    numbers = {name: encoder.token_to_id(text) for name, text in specials.items()}
    for name, number in numbers.items():
        if number is None:
            raise ValueError(f"specials: got {name} = {specials[name]!r}, expected a token of the vocabulary")
    end = numbers["eos_token"]
    return Tokenizer(encoder, end, numbers.get("pad_token", end), dict(specials), template or PLAIN)


@functools.cache
def _compiled(template: str) -> jinja2.Template:
    """A template, once: compiling takes longer than rendering. As in transformers, a stranger's runs in a sandbox."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(template)


def _refuse(message: str) -> NoReturn:
    """What templates call for conversations that they can't render."""
    raise jinja2.TemplateError(message)


def _content(value: Any) -> str | None:
    """The text of a special token, which the file may hold with its properties."""
    return value.get("content") if isinstance(value, dict) else value


def _named(templates: Any) -> str | None:
    """The default one where there are several."""
    if isinstance(templates, list):
        return next((one["template"] for one in templates if one["name"] == "default"), None)
    return templates
