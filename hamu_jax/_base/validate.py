"""Checks of what users pass in.

Concrete values are checked when something is built, tracers never; shapes and dtypes are checked while tracing, before
any computation.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from hamu_jax._base.key_paths import path_name

_NO_NUMBERS = {"U": "text", "S": "bytes", "O": "objects", "M": "dates", "m": "time spans"}  # by numpy's letter
_MOST = 2**63 - 1  # what an array's index can hold
LONGEST = 80  # characters of a value that an error shows


def axis(name: str, value: Any) -> None:
    """Checks an axis of objectives, which can only be the leading one."""
    _no_tracer(name, value, "None or 0")
    if value is not None and not (_is_integer(value) and value == 0):
        raise ValueError(f"{name}: got {shown(value)}, expected None or 0")


def axis_name(name: str, value: Any) -> None:
    """Checks the name of an axis of devices, or names."""
    names = value if isinstance(value, tuple) else (value,)
    if value is not None and not (names and all(isinstance(text, str) and text for text in names)):
        raise ValueError(f"{name}: got {shown(value)}, expected None, the name of an axis, or a tuple of names")


def number(name: str, value: Any, *, positive: bool = False, many: bool = False) -> None:
    """Checks a number that must be finite and at least 0 (above 0 with `positive`); lets tracers and schedules through.

    With `many` an array `[m]` of such numbers passes too.
    """
    if callable(value) or isinstance(value, Tracer):
        return
    if many and len(_shape(value) or ()) == 1:
        for i, entry in enumerate(np.asarray(value).tolist()):
            constant(f"{name}[{i}]", entry, positive=positive)
        return
    constant(name, value, positive=positive, schedule=True)


def constant(name: str, value: Any, *, positive: bool = False, schedule: bool = False) -> float:
    """A plain finite number of at least 0 (above 0 with `positive`), as a Python float: no schedule, no tracer.

    Such a number is part of what is compiled. `schedule` says that the message may offer one.
    """
    kind = "a positive number" if positive else "a number of at least 0"
    _no_tracer(name, value, kind)
    if _shape(value) != ():
        raise ValueError(f"{name}: got {shown(value)}, expected {kind}{' or an optax schedule' if schedule else ''}")
    plain, largest = _float(value), _largest()
    if not (0 < plain <= largest if positive else 0 <= plain <= largest):
        raise ValueError(f"{name}: got {shown(value)}, expected {kind}{'' if plain <= largest else f' up to {largest:.2g}'}")
    return plain


def finite(name: str, value: Any) -> float:
    """A plain finite number of any sign, as a Python float."""
    plain = _float(value) if _shape(value) == () and not isinstance(value, Tracer) else math.nan
    if not abs(plain) <= _largest():
        raise ValueError(f"{name}: got {shown(value)}, expected a finite number")
    return plain


def integer(name: str, value: Any, *, at_least: int = 1) -> int:
    """A count, numpy's too, as a Python integer."""
    _no_tracer(name, value, f"a whole number of at least {at_least}")
    if not _is_integer(value) or value < at_least:
        raise ValueError(f"{name}: got {shown(value)}, expected a whole number of at least {at_least}")
    if value > _MOST:
        raise ValueError(f"{name}: got {shown(value)}, expected a whole number up to {_MOST}")
    return int(value)


def choice(name: str, value: Any, names: Sequence[str], expected: str = "") -> None:
    """Checks that a value is one of some names; `expected` describes them in the error."""
    if not (isinstance(value, str) and value in names):
        raise ValueError(f"{name}: got {shown(value)}, expected {expected or 'one of ' + ', '.join(names)}")


def instance(name: str, value: Any, kind: type, *, optional: bool = False) -> None:
    """Checks that a value is of a class of this library, or None if it is optional."""
    if not (isinstance(value, kind) or (optional and value is None)):
        hint = f": {name}={kind.__name__}(...)" if name.isidentifier() else ""
        raise TypeError(f"{name}: got {shown(value)}, expected a {kind.__name__}{' or None' if optional else ''}{hint}")


def function(name: str, value: Any, signature: str, *, optional: bool = False) -> None:
    """Checks that a value can be called."""
    if not (callable(value) or (optional and value is None)):
        raise TypeError(f"{name}: got {shown(value)}, expected a function {signature}{' or None' if optional else ''}")


def shown(value: Any) -> str:
    """A value as an error shows it: short, and never an array's numbers."""
    if getattr(value, "shape", ()) != () and hasattr(value, "dtype"):
        return f"an array of shape {value.shape}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    try:
        text = repr(value)
    except Exception:  # whatever an object raises that is asked what it is
        return f"an object of type {type(value).__name__}"
    if isinstance(value, (str, bytes, int, float, complex, np.generic, type(None), tuple)):
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if len(text) > LONGEST or " at 0x" in text:
        return f"an object of type {type(value).__name__}"
    return text if text.startswith(type(value).__name__) else f"{type(value).__name__} {text}"


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a real number or an array or list of them; None for anything else, booleans too."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ()
    if not isinstance(value, (np.ndarray, np.generic, jax.Array, list, tuple)):
        return None
    try:
        array = np.asarray(value) if isinstance(value, (list, tuple)) else value
    except ValueError:
        return None
    is_number = jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)
    return tuple(array.shape) if is_number else None


def _float(value: Any) -> float:
    """A number as a Python float; infinite if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _largest() -> float:
    """The largest number that a computation in the default precision can hold."""
    return float(jnp.finfo(jnp.result_type(float)).max)


def _is_integer(value: Any) -> bool:
    """Whether a value is a whole number of Python or numpy, and no boolean."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _no_tracer(name: str, value: Any, expected: str) -> None:
    """Raises for a traced number where a plain one is part of what is compiled."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name}: got a traced number, expected {expected} that is known before tracing (optax.inject_hyperparams takes "
            f"its name in static_args=({name!r},))"
        )


def real_array(name: str, value: Any) -> Any:
    """An array as it is, or a list or a number as a numpy array, checked to be of real numbers or booleans.

    Raises:
      TypeError: for anything else.
    """
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        try:
            value = np.asarray(value)
        except Exception:  # rows of unlike lengths, and whatever an object raises that is asked for its numbers
            raise TypeError(f"{name}: got {type(value).__name__}, expected an array of real numbers") from None
    if not is_real(value.dtype):
        raise TypeError(f"{name}: got {_kind(value.dtype)}, expected real numbers")
    return value


def is_real(dtype: Any) -> bool:
    """Whether a dtype is of real numbers, whole or not, or of booleans."""
    return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer) or dtype == np.bool_)


def _kind(dtype: Any) -> str:
    """The readable name of a dtype."""
    return _NO_NUMBERS.get(getattr(dtype, "kind", ""), str(dtype))


def numbers(name: str, values: Any, *, ndim: int = 1) -> Float[np.ndarray, "..."]:
    """Numbers in float64, checked to be finite and to have `ndim` axes, none of them empty."""
    array = np.asarray(real_array(name, values)).astype(np.float64)
    if array.ndim != ndim or array.size == 0:
        axes = "[n]" if ndim == 1 else "[n, k]"
        raise ValueError(f"{name}: got shape {array.shape}, expected {axes}, with at least one number")
    first_wrong(name, array, ~np.isfinite(array), "a finite number")
    return array


def fractions(name: str, values: Any) -> Float[np.ndarray, " n"]:
    """Numbers from 0 to 1, in float64, at least one."""
    array = numbers(name, values)
    first_wrong(name, array, (array < 0) | (array > 1), "a number from 0 to 1")
    return array


def first_wrong(name: str, array: Float[np.ndarray, "..."], wrong: Bool[np.ndarray, "..."], expected: str) -> None:
    """Names the first number that is wrong, if there is one."""
    indices = np.argwhere(wrong)
    if indices.size:
        where = ", ".join(map(str, indices[0]))
        raise ValueError(f"{name}[{where}]: got {array[tuple(indices[0])]}, expected {expected}")


def gradients(name: str, tree: Any, *, some: bool = False) -> None:
    """Checks that every leaf is a floating-point array, and with `some` that there is one."""
    if some and not jax.tree.leaves(tree):
        raise ValueError(f"{name}: got a pytree without arrays, expected at least one")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            hint = " (see optax.contrib.split_real_and_imaginary)" if dtype is not None and jnp.iscomplexobj(leaf) else ""
            got = type(leaf).__name__ if dtype is None else dtype
            raise TypeError(f"{name}: got {got} at '{path_name(path)}', expected a floating-point array{hint}")


def same_structure(name: str, tree: Any, reference_name: str, reference: Any, *, hint: str = "") -> None:
    """Checks that two pytrees have the same paths and shapes; names the first that differs. `hint` says why that may be."""
    hint = f" ({hint})" if hint else ""
    got = jax.tree_util.tree_leaves_with_path(tree)
    expected = jax.tree_util.tree_leaves_with_path(reference)
    for (path, leaf), (expected_path, expected_leaf) in zip(got, expected, strict=False):
        if path != expected_path:
            raise ValueError(
                f"{name}: got the leaf '{path_name(path)}' where {reference_name} has '{path_name(expected_path)}', expected "
                f"the same pytree structure{hint}"
            )
        if jnp.shape(leaf) != jnp.shape(expected_leaf):
            raise ValueError(
                f"{name}: got shape {jnp.shape(leaf)} at '{path_name(path)}', expected {jnp.shape(expected_leaf)} as in "
                f"{reference_name}{hint}"
            )
    if len(got) != len(expected):
        longer, which = (got, name) if len(got) > len(expected) else (expected, reference_name)
        extra = path_name(longer[min(len(got), len(expected))][0])
        raise ValueError(
            f"{name}: got {len(got)} leaves, expected {len(expected)} as in {reference_name}; the first that only {which} has "
            f"is '{extra}'{hint}"
        )
    if jax.tree.structure(tree) != jax.tree.structure(reference):
        raise ValueError(
            f"{name}: got the pytree {jax.tree.structure(tree)}, expected {jax.tree.structure(reference)} as in "
            f"{reference_name}{hint}"
        )


def _column(name: str, path: Any, leaf: Any) -> None:
    """Checks that a leaf of a batch is an array of numbers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and not isinstance(leaf, (bool, int, float, complex)):
        raise TypeError(f"{name}: got {shown(leaf)} at '{path_name(path)}', expected an array")
    if getattr(dtype, "kind", "") in _NO_NUMBERS:
        raise TypeError(
            f"{name}: got {_kind(dtype)} at '{path_name(path)}', expected numbers: leave the column out, or make it numbers "
            "(tokens, class labels)"
        )


def batch(name: str, tree: Any) -> int:
    """Checks that all leaves share a leading example axis that is not empty; returns its length."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name}: got a pytree without arrays, expected at least one with a leading example axis")
    first_path, first = leaves[0]
    for path, leaf in leaves:
        _column(name, path, leaf)
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"{name}: got a 0-d leaf at '{path_name(path)}', expected a leading example axis")
        if jnp.shape(leaf)[0] != jnp.shape(first)[0]:
            raise ValueError(
                f"{name}: got {jnp.shape(leaf)[0]} examples at '{path_name(path)}', expected {jnp.shape(first)[0]} as at "
                f"'{path_name(first_path)}'"
            )
    size = int(jnp.shape(first)[0])
    if size == 0:
        raise ValueError(f"{name}: got 0 examples, expected at least 1")
    return size
