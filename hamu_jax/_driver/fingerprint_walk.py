"""A walk through functions, their closures and plain data, which gives every part a path and a token (see `fingerprint`)."""

import dataclasses
import enum
import functools
import types
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from hamu_jax._base.key_paths import path_name
from hamu_jax._driver.fingerprint_code import (
    calls_mutators,
    code_parts,
    functions_of,
    globals_read,
    is_library,
    only_checks,
    read_from_modules,
    written,
)
from hamu_jax._driver.fingerprint_content import UNKNOWN, content, digest, dtype_name, short

Fingerprint = dict[str, str]

DEEPEST = 40  # levels of nesting
LONG = 100  # elements: a longer list of plain values is hashed as one
MOST = 5000  # entries of one function or optimizer; what follows is unknown


@dataclasses.dataclass
class Walk:
    """A walk through functions, their closures and plain data. Paths are made of names; tokens as the module says."""

    marks: Fingerprint = dataclasses.field(default_factory=dict)
    visited: dict[int, tuple[str, Any]] = dataclasses.field(default_factory=dict)  # by id, with the object, so that it lives

    def visit(self, path: str, value: Any, depth: int) -> None:
        """Adds the entries of one value; one that was met before, as in a circle, is named by its path."""
        if isinstance(value, (np.integer, np.bool_)):
            value = value.item()
        if depth > DEEPEST or len(self.marks) >= MOST:
            self.marks[path] = UNKNOWN
            return
        if id(value) in self.visited:
            self.marks[path] = f"as {self.visited[id(value)][0]}"
            return
        for is_kind, add in _KINDS:
            if is_kind(value):
                if not isinstance(value, _PLAIN):
                    self.visited[id(value)] = path, value
                add(self, path, value, depth)
                return
        self.marks[path] = UNKNOWN

    def children(self, path: str, named: Iterable[tuple[str, Any]], depth: int) -> None:
        """Adds the entries of the parts of a value, as far as there is room."""
        for name, value in named:
            if len(self.marks) >= MOST:
                self.marks[f"{path}.rest"] = UNKNOWN
                return
            self.visit(f"{path}{name}", value, depth + 1)

    def plain(self, path: str, value: Any, depth: int) -> None:
        """A number, a text, None."""
        del depth
        self.marks[path] = short(repr(value))

    def member(self, path: str, value: Any, depth: int) -> None:
        """A member of an enumeration."""
        del depth
        self.marks[path] = f"{type(value).__qualname__}.{value.name}"

    def array(self, path: str, value: Any, depth: int) -> None:
        """An array."""
        del depth
        shown = f"{np.asarray(value).item()!r}, " if _is_readable_scalar(value) else ""
        token = content(value)
        self.marks[path] = UNKNOWN if token == UNKNOWN else f"{shown}{dtype_name(value)}{list(np.shape(value))} {token}"

    def named(self, path: str, value: Any, depth: int) -> None:
        """A class, a module, a dtype, a compiled function: its name."""
        del depth
        self.marks[path] = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or str(value)

    def sequence(self, path: str, value: Any, depth: int) -> None:
        """A tuple, named or not, or a list."""
        self.marks[path] = f"{type(value).__qualname__}({len(value)})"
        if len(value) > LONG and all(isinstance(element, _PLAIN) for element in value):
            self.marks[f"{path}.values"] = digest(repr(tuple(value)))
            return
        names = getattr(value, "_fields", None)
        labels = [f"[{i}]" for i in range(len(value))] if names is None else [f".{name}" for name in names]
        self.children(path, zip(labels, value, strict=True), depth)

    def mapping(self, path: str, value: Any, depth: int) -> None:
        """A dictionary, in whatever order."""
        self.marks[path] = f"{type(value).__qualname__}({len(value)})"
        self.children(path, sorted((f"[{_key(key)}]", part) for key, part in value.items()), depth)

    def unordered(self, path: str, value: Any, depth: int) -> None:
        """A set."""
        tokens: list[str] = []
        for element in value:
            inner = Walk()
            inner.visit("", element, depth + 1)
            tokens.append(repr(sorted(inner.marks.items())))
        self.marks[path] = digest(repr(sorted(tokens)))

    def fields(self, path: str, value: Any, depth: int) -> None:
        """A dataclass instance; of a callable one its code too."""
        self.marks[path] = type(value).__qualname__
        fields = ((f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value))
        self.children(path, fields, depth)
        self._methods(path, type(value), depth)

    def pytree(self, path: str, value: Any, depth: int) -> None:
        """A registered container of another library: its leaves."""
        self.marks[path] = type(value).__qualname__
        leaves = jax.tree_util.tree_leaves_with_path(value)
        self.children(path, ((f"[{path_name(where)!r}]", leaf) for where, leaf in leaves), depth)

    def partial(self, path: str, value: Any, depth: int) -> None:
        """A function with some arguments: the function's entries have the path itself."""
        self.visit(path, value.func, depth + 1)
        arguments = ((f".{i}", argument) for i, argument in enumerate(value.args))
        self.children(path, [*arguments, *((f".{name}", x) for name, x in value.keywords.items())], depth)

    def method(self, path: str, value: Any, depth: int) -> None:
        """A bound method."""
        self.children(path, ((".self", value.__self__), (".method", value.__func__)), depth)

    def wrapped(self, path: str, value: Any, depth: int) -> None:
        """What `jax.jit` and the like return."""
        self.visit(path, value.__wrapped__, depth + 1)

    def function(self, path: str, value: types.FunctionType, depth: int) -> None:
        """A Python function: its name, code, defaults, closure, and the globals that it reads.

        Of a library's function, whose code is the library's version, only the name, defaults and closure.
        """
        if only_checks(value):
            self.wrapped(path, value, depth)
            return
        code, is_users = value.__code__, not is_library(value.__code__.co_filename)
        self.marks[path] = value.__qualname__
        changed = written(code)
        logs = is_users and calls_mutators(code)
        if is_users:
            self._code(f"{path}.code", code)
        self.children(path, ((f".default{i}", part) for i, part in enumerate(value.__defaults__ or ())), depth)
        self.children(path, ((f".{name}", part) for name, part in (value.__kwdefaults__ or {}).items()), depth)
        read = dict(zip(code.co_freevars, (_cell(cell) for cell in value.__closure__ or ()), strict=True))
        if is_users:
            read |= {name: value.__globals__[name] for name in globals_read(code) if name in value.__globals__}
            read |= read_from_modules(code, read)
        for name, part in read.items():
            if name in changed or (logs and _is_mutable(part)):
                self.marks[f"{path}.{name}"] = UNKNOWN
            else:
                self.visit(f"{path}.{name}", part, depth + 1)

    def instance(self, path: str, value: Any, depth: int) -> None:
        """A callable object of a user's class: its code, and the attributes that only `__init__` sets."""
        self.marks[path] = type(value).__qualname__
        members = functions_of(type(value))
        functions = [part for name, part in members.items() if name != "__init__"]
        changed = {name for function in functions for name in written(function.__code__)}
        logs = any(calls_mutators(function.__code__) for function in functions)
        for name, part in sorted(vars(value).items()):
            if name in changed or (logs and _is_mutable(part)):
                self.marks[f"{path}.{name}"] = UNKNOWN
            else:
                self.visit(f"{path}.{name}", part, depth + 1)
        self._methods(path, type(value), depth)

    def _methods(self, path: str, kind: type, depth: int) -> None:
        """The code of a user's class that can be called."""
        members = functions_of(kind)
        for name, part in sorted(members.items()) if "__call__" in members else ():
            if not is_library(part.__code__.co_filename) and (name == "__call__" or not name.startswith("__")):
                self.visit(f"{path}.{name}()", part, depth + 1)

    def _code(self, path: str, code: types.CodeType) -> None:
        """Byte code, names and constants, those of inner functions too."""
        self.marks[path] = digest(repr(code_parts(code)))


def _is_mutable(value: Any) -> bool:
    """Whether a value is a container that may serve as a log or a cache: one that holds no arrays."""
    return isinstance(value, (list, dict, set)) and not any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))


def _cell(cell: Any) -> Any:
    """The content of a closure's cell; an empty one (a function still being defined) holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _key(key: Any) -> str:
    """A dictionary's key, by its text where that is the same in every process."""
    return repr(key) if isinstance(key, (str, int, float, bool, bytes, type(None), tuple)) else type(key).__qualname__


def _is_readable_scalar(value: Any) -> bool:
    """Whether an array is one number, to be shown."""
    return np.shape(value) == () and not isinstance(value, Tracer) and np.issubdtype(value.dtype, np.number)


def _is_user_object(value: Any) -> bool:
    """Whether a value is a callable object whose class is the user's."""
    call = functions_of(type(value)).get("__call__")
    return call is not None and hasattr(value, "__dict__") and not is_library(call.__code__.co_filename)


_PLAIN = (type(None), type(Ellipsis), bool, int, float, complex, str, bytes)


def _is_pytree(value: Any) -> bool:
    """Whether a value is a registered container."""
    return not jax.tree_util.all_leaves([value])


def _is_dataclass(value: Any) -> bool:
    """Whether a value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _has_wrapped(value: Any) -> bool:
    """Whether a value wraps a function."""
    return callable(value) and callable(getattr(value, "__wrapped__", None))


_KINDS: tuple[tuple[Any, Any], ...] = (
    (lambda x: isinstance(x, enum.Enum), Walk.member),
    (lambda x: isinstance(x, _PLAIN), Walk.plain),
    (lambda x: isinstance(x, Tracer), lambda walk, path, *_: walk.marks.update({path: UNKNOWN})),
    (lambda x: isinstance(x, (np.ndarray, np.generic, jax.Array)), Walk.array),
    (lambda x: isinstance(x, (type, types.ModuleType, np.dtype)), Walk.named),
    (lambda x: isinstance(x, (tuple, list)), Walk.sequence),
    (lambda x: isinstance(x, Mapping), Walk.mapping),
    (lambda x: isinstance(x, (set, frozenset)), Walk.unordered),
    (lambda x: isinstance(x, functools.partial), Walk.partial),
    (lambda x: isinstance(x, types.MethodType), Walk.method),
    (lambda x: isinstance(x, types.FunctionType), Walk.function),
    (_is_dataclass, Walk.fields),
    (_has_wrapped, Walk.wrapped),
    (_is_pytree, Walk.pytree),
    (_is_user_object, Walk.instance),
    (lambda x: isinstance(x, (types.BuiltinFunctionType, np.ufunc)), Walk.named),
)
