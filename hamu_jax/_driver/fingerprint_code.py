"""What a function's code is, reads and changes; what belongs to a library and what to the user."""

import dis
import functools
import os
import sysconfig
import types
from collections.abc import Iterator, Mapping
from typing import Any

# Methods that change a list, dictionary or set: a function that calls one may be keeping a log or a cache in it.
MUTATORS = frozenset({"add", "append", "appendleft", "clear", "extend", "insert", "pop", "popleft", "setdefault", "update"})
WRITES = frozenset({"STORE_DEREF", "DELETE_DEREF", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR"})


def code_parts(code: types.CodeType) -> tuple[Any, ...]:
    """What of a code object decides what it does: no file name, no line numbers."""
    constants = [code_parts(x) if isinstance(x, types.CodeType) else _constant(x) for x in code.co_consts]
    return code.co_code, code.co_names, code.co_freevars, constants


def _constant(value: Any) -> str:
    """A constant of a code object; a set's order depends on the process."""
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _inner_codes(constant)


def globals_read(code: types.CodeType) -> list[str]:
    """The names that a function reads from its module."""
    instructions = (instruction for inner in _inner_codes(code) for instruction in dis.get_instructions(inner))
    return sorted({instruction.argval for instruction in instructions if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")})


def read_from_modules(code: types.CodeType, read: Mapping[str, Any]) -> dict[str, Any]:
    """What a function may read from the user's own modules (`models.apply`)."""
    attributes = sorted({name for inner in _inner_codes(code) for name in inner.co_names})
    modules = {name: part for name, part in read.items() if isinstance(part, types.ModuleType) and not is_library(_file(part))}
    return {f"{name}.{x}": getattr(part, x) for name, part in modules.items() for x in attributes if hasattr(part, x)}


def _file(module: types.ModuleType) -> str:
    """Where a module lies; one that is built in lies in Python's library."""
    return getattr(module, "__file__", None) or "<frozen"


def written(code: types.CodeType) -> set[str]:
    """Variables outside a function, and attributes, that it changes: they are a counter or a cache, not a setting."""
    instructions = (instruction for inner in _inner_codes(code) for instruction in dis.get_instructions(inner))
    return {instruction.argval for instruction in instructions if instruction.opname in WRITES} - set(code.co_cellvars)


def calls_mutators(code: types.CodeType) -> bool:
    """Whether a function may change a container that it did not make."""
    codes = list(_inner_codes(code))
    stores = any(instruction.opname == "STORE_SUBSCR" for inner in codes for instruction in dis.get_instructions(inner))
    return stores or any(name in MUTATORS for inner in codes for name in inner.co_names)


def functions_of(kind: type) -> dict[str, types.FunctionType]:
    """The methods of a class that are written in Python, inherited ones too."""
    members = {name: part for base in reversed(kind.__mro__) for name, part in vars(base).items()}
    return {name: part for name, part in members.items() if isinstance(part, types.FunctionType)}


@functools.cache
def _library_directories() -> tuple[str, ...]:
    """Where Python's own library and this one lie."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return (sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep, here + os.sep, "<frozen")


def is_library(name: str) -> bool:
    """Whether a file belongs to an installed package rather than to the user."""
    return "site-packages" in name or "dist-packages" in name or name.startswith(_library_directories())


def only_checks(function: types.FunctionType) -> bool:
    """Whether a function only checks the arguments of another: its names hold addresses or modules."""
    name = function.__code__.co_filename
    return hasattr(function, "__wrapped__") and (name.startswith("<@beartype") or f"{os.sep}jaxtyping{os.sep}" in name)
