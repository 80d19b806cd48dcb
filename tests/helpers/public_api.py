"""Every public name with its signature, a line each. `python tests/helpers/public_api.py` writes what is compared with."""

import dataclasses
import enum
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hamu_jax
from hamu_jax import report

FROZEN = Path(__file__).parents[1] / "data" / "public_api.txt"


def describe() -> str:
    """The public interface as text."""
    modules = [hamu_jax, *(value for value in vars(hamu_jax).values() if inspect.ismodule(value) and _public(value)), report]
    lines = sorted({line for module in modules for line in _module(module)})
    return "\n".join(lines) + "\n"


def _public(module: ModuleType) -> bool:
    return module.__name__.split(".")[-1] in hamu_jax.__all__


def _module(module: ModuleType) -> Iterator[str]:
    """The lines of a module."""
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.ismodule(value):
            yield from _lines(f"{module.__name__}.{name}", value)


def _lines(path: str, value: Any) -> Iterator[str]:
    """A function's signature; a class's, with its public members."""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        yield f"{path}: {', '.join(f'{one.name} = {one.value!r}' for one in value)}"
    elif inspect.isclass(value):
        yield f"{path}{_signature(value)}"
        fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
        for name, member in vars(value).items():
            if name.startswith("_") or name in fields or name in getattr(value, "_fields", ()):
                continue
            function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            yield f"{path}.{name}{_signature(function) if callable(function) else ''}"
    elif inspect.isfunction(value):
        yield f"{path}{_signature(value)}"
    else:
        yield path


def _signature(value: Any) -> str:
    """Names, order, kinds and defaults of arguments; not their types, which may be told more exactly at any time."""
    parameters = inspect.signature(value).parameters.values()
    bare = [one.replace(annotation=inspect.Parameter.empty, default=_default(one.default)) for one in parameters]
    return str(inspect.Signature(bare))


def _default(value: Any) -> Any:
    """A default that is written the same everywhere; others are told by their presence alone."""
    plain = value is inspect.Parameter.empty or value is None or isinstance(value, bool | int | float | str | tuple)
    return value if plain else ...


if __name__ == "__main__":
    FROZEN.write_text(describe(), encoding="utf-8")
