"""Checks of what users pass in.

Concrete values are checked when something is built, tracers never; shapes and dtypes are checked while tracing, before
any computation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from hamu_jax._base.key_paths import path_name


def axis(name: str, value: Any) -> None:
    """Checks an axis of objectives, which can only be the leading one."""
    if value is not None and (isinstance(value, bool) or value != 0):
        raise ValueError(f"{name}: got {value!r}, expected None or 0")


def axis_name(name: str, value: Any) -> None:
    """Checks the name of an axis of devices, or names."""
    names = value if isinstance(value, tuple) else (value,)
    if value is not None and not (names and all(isinstance(one, str) and one for one in names)):
        raise ValueError(f"{name}: got {value!r}, expected None, the name of an axis, or a tuple of names")


def number(name: str, value: Any, *, positive: bool = False, many: bool = False) -> None:
    """Checks a number that must be finite and at least 0 (above 0 with `positive`); lets tracers and schedules through.

    With `many` an array `[m]` of such numbers will do too.
    """
    if many and not callable(value) and not isinstance(value, Tracer) and np.ndim(value) == 1:
        for i, one in enumerate(np.asarray(value)):
            number(f"{name}[{i}]", float(one), positive=positive)
        return
    if callable(value) or isinstance(value, Tracer):
        return
    kind = "a positive number" if positive else "a number of at least 0"
    # numpy, not jax.numpy: under jit the latter makes tracers even of Python numbers.
    if np.ndim(value) != 0 or isinstance(value, (bool, str)):
        raise ValueError(f"{name}: got {value!r}, expected {kind} or an optax schedule")
    if not (np.isfinite(value) and (value > 0 if positive else value >= 0)):
        raise ValueError(f"{name}: got {value!r}, expected {kind}")


def integer(name: str, value: Any, *, at_least: int = 1) -> None:
    """Checks a count."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {at_least}")


def array(name: str, value: Any) -> Any:
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
    """A dtype as people call it."""
    return {"U": "text", "S": "bytes", "O": "objects", "M": "dates", "m": "time spans"}.get(
        getattr(dtype, "kind", ""), str(dtype)
    )


def numbers(name: str, values: Any, *, ndim: int = 1) -> Float[np.ndarray, "..."]:
    """Numbers in float64, checked to be finite and to have `ndim` axes, none of them empty."""
    array = np.asarray(values, np.float64)
    if array.ndim != ndim or array.size == 0:
        axes = "[n]" if ndim == 1 else "[n, k]"
        raise ValueError(f"{name}: got shape {array.shape}, expected {axes}, with at least one number")
    wrong = np.argwhere(~np.isfinite(array))
    if wrong.size:
        where = ", ".join(map(str, wrong[0]))
        raise ValueError(f"{name}[{where}]: got {array[tuple(wrong[0])]}, expected a finite number")
    return array


def gradients(name: str, tree: Any) -> None:
    """Checks that every leaf is a floating-point array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            hint = " (see optax.contrib.split_real_and_imaginary)" if dtype is not None and jnp.iscomplexobj(leaf) else ""
            got = type(leaf).__name__ if dtype is None else dtype
            raise TypeError(f"{name}: got {got} at '{path_name(path)}', expected a floating-point array{hint}")


def same_structure(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Checks that two pytrees have the same paths and shapes; names the first that differs."""
    got = jax.tree_util.tree_leaves_with_path(tree)
    expected = jax.tree_util.tree_leaves_with_path(reference)
    for (path, leaf), (expected_path, expected_leaf) in zip(got, expected, strict=False):
        if path != expected_path:
            raise ValueError(
                f"{name}: got the leaf '{path_name(path)}' where {reference_name} has '{path_name(expected_path)}', expected "
                "the same pytree structure"
            )
        if jnp.shape(leaf) != jnp.shape(expected_leaf):
            raise ValueError(
                f"{name}: got shape {jnp.shape(leaf)} at '{path_name(path)}', expected {jnp.shape(expected_leaf)} as in "
                f"{reference_name}"
            )
    if len(got) != len(expected):
        longer, which = (got, name) if len(got) > len(expected) else (expected, reference_name)
        extra = path_name(longer[min(len(got), len(expected))][0])
        raise ValueError(
            f"{name}: got {len(got)} leaves, expected {len(expected)} as in {reference_name}; the first that only {which} has "
            f"is '{extra}'"
        )
    if jax.tree.structure(tree) != jax.tree.structure(reference):
        raise ValueError(
            f"{name}: got the pytree {jax.tree.structure(tree)}, expected {jax.tree.structure(reference)} as in "
            f"{reference_name}"
        )


def batch(name: str, tree: Any) -> int:
    """Checks that all leaves share a leading example axis that is not empty; returns its length."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name}: got a pytree without arrays, expected at least one with a leading example axis")
    first_path, first = leaves[0]
    for path, leaf in leaves:
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
