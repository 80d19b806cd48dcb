"""Chat templates of unknown origin: rendered as transformers does, in a sandbox, with bounded work."""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes, parser

LARGEST = 10**6  # characters of a template
STEPS = 10**5  # loop iterations and calls of one rendering; a long conversation needs some hundred
LONGEST = 10**7  # characters of a text that is put together
SIZE = 10**8  # of the product of an operation's sizes, an upper bound of the characters that it can make

_steps: ContextVar[int] = ContextVar("steps", default=0)


def render_template(template: str, variables: Mapping[str, Any]) -> str:
    """Renders a chat template.

    Args:
      template: in Jinja, as Hugging Face defines chat templates.
      variables: what it reads: `messages`, `tools`, `add_generation_prompt`, special tokens and so on.

    Returns:
      The text.

    Raises:
      ValueError: for a template that is wrong, refuses the conversation, runs into the bounds, or fails in any other way.
    """
    if not isinstance(template, str) or len(template) > LARGEST:
        kind = f"{len(template)} characters" if isinstance(template, str) else type(template).__name__
        raise ValueError(f"template: got {kind}, expected a text of at most {LARGEST} characters")
    token = _steps.set(0)
    try:
        return _compiled(template).render(variables)
    except Exception as error:  # a stranger's program raises whatever it likes
        said = str(error) or type(error).__name__
        raise ValueError(f"template: got one that fails with {said}, expected a Jinja chat template") from error
    finally:
        _steps.reset(token)


def reads_clock(template: str, date_string: str | None) -> bool:
    """Whether a template's text depends on the day on which it is rendered."""
    return "strftime_now" in template and (date_string is None or "date_string" not in template)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, with which transformers marks the assistant's words: the text in it stays as it is."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 has it)

    def parse(self, parser: parser.Parser) -> nodes.Node | list[nodes.Node]:
        """The statements inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore, by which older sandboxes were left."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *positional = args
        initial = dict(*positional, **values)
        for name in initial:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, initial)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Bounded(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox that counts iterations and calls, and computes no huge numbers or texts."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
        self.filters = {name: _bounded(function) for name, function in self.filters.items()}
        self.filters |= {"tojson": _to_json, "_counted": _counted, "_joined": _joined}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Namespace, "dict": _new_dict}

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """All text that a template puts together goes through this."""
        return _joined(list(parts))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls of macros, functions and methods."""
        _count(1)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _check_size(function.__name__, owner, *args, *kwargs.values())
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """The method `format` of texts."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format("format", value.__self__)
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Operations whose results can be much larger than their operands."""
        sequences = [value for value in (left, right) if isinstance(value, (str, list, tuple))]
        if operator == "+" and sum(map(len, sequences)) > LONGEST:
            raise jinja2.exceptions.SecurityError(f"a sum of more than {LONGEST} elements")
        if operator == "**":
            _check_size(operator, *[right] * 4)
        elif operator == "*" and sequences:
            _check_size(operator, left, right)
        elif operator == "%":
            _check_format("format", left)
        return super().call_binop(context, operator, left, right)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Compiles a template whose loops are counted and whose joined texts are bounded."""
        for loop in list(source.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        for joined in list(source.find_all(nodes.Concat)):
            joined.nodes = [nodes.Filter(nodes.List(joined.nodes), "_joined", [], [], None, None)]
        for node in source.find_all(nodes.Node):
            node.set_environment(self)
        return super()._generate(source, *args, **kwargs)


@functools.cache
def _compiled(template: str) -> jinja2.Template:
    """A template, once: compiling takes longer than rendering."""
    return _Bounded().from_string(template)


def _count(steps: int) -> None:
    """Counts work."""
    _steps.set(_steps.get() + steps)
    if _steps.get() > STEPS:
        raise jinja2.exceptions.SecurityError(f"more than {STEPS} loop iterations and calls")


def _counted(values: Any) -> Any:
    """What a loop goes through, counted."""
    if isinstance(values, jinja2.Undefined):
        return values
    listed = values if hasattr(values, "__len__") else list(values)
    _count(len(listed))
    return listed


def _joined(parts: Sequence[Any]) -> str:
    """Parts as one text."""
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > LONGEST:
        raise jinja2.exceptions.SecurityError(f"more than {LONGEST} characters")
    return "".join(texts)


def _check_name(name: Any) -> None:
    """Checks a name of a namespace."""
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"the name {name!r} of a namespace, which begins with an underscore")


def _check_format(name: str, text: Any) -> None:
    """Checks that a format has no great width."""
    if name.startswith("format") and isinstance(text, str) and re.search(r"\d{5}|\*|\{[^}]*\{", text):
        raise jinja2.exceptions.SecurityError("a format whose width may be great")


def _check_size(name: str, *values: Any) -> None:
    """Checks that an operation on texts and numbers makes no huge text: the product of the sizes is an upper bound."""
    product = 1
    for value in values:
        if isinstance(value, (list, tuple)):
            product *= 1 + len(value) + sum(len(one) for one in value if isinstance(one, str))
        elif isinstance(value, (str, int)):
            product *= 1 + (len(value) if isinstance(value, str) else min(abs(value), SIZE))
    if product > SIZE:
        raise jinja2.exceptions.SecurityError(
            f"{name} of texts or numbers so large that the result may have over {SIZE} characters"
        )


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that is counted, and not called where it could make a huge text."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _count(1)
        name, values = function.__name__.removeprefix("do_"), (*args, *kwargs.values())
        if name == "replace" or any(isinstance(value, int) for value in values):
            _check_size(name, *values)
        _check_format(name, next((value for value in args if isinstance(value, str)), ""))
        return function(*args, **kwargs)

    return bounded


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes HTML."""
    _count(1)
    if isinstance(indent, int):
        _check_size("tojson", indent, indent)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    """The date of today, as a template wants it."""
    return datetime.now().strftime(form)


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """A dictionary."""
    return dict(*args, **kwargs)


def _refuse(message: str) -> NoReturn:
    """What templates call for conversations that they can't render."""
    raise jinja2.TemplateError(message)
