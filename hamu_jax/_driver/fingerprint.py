"""What decides a run, as short texts that another process computes alike: a checkpoint carries them.

A fingerprint is a flat dictionary from a path (`optimizer.update.radius`) to a token: the `repr` of a plain value, or a hash.
Nothing in it depends on memory addresses, on `hash()` or on the order of sets. What cannot be told, such as the fields of an
object of unknown kind, has the token `UNKNOWN`, which equals any other.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hamu_jax._base.key_paths import path_name
from hamu_jax._datasets.batches import is_arrays
from hamu_jax._driver.fingerprint_content import UNKNOWN, content, digest, dtype_name, short, size_of
from hamu_jax._driver.fingerprint_walk import Fingerprint, Walk

SMALL = 4096  # numbers: leaves of an optimizer's state up to this size are read (hyperparameters), larger ones are not


def of_arrays(name: str, tree: Any, *, at_most: int | None = None) -> Fingerprint:
    """The fingerprint of a pytree of arrays: path, dtype, shape and content of every leaf, wherever it lies.

    One pass over the data. With `at_most`, the content of leaves with more numbers is unknown.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    marks = {f"{name}.leaves": short(repr([path_name(path) for path, _ in leaves]))}
    for path, leaf in leaves:
        where = f"{name}[{path_name(path)!r}]"
        marks[where] = f"{dtype_name(leaf)}{list(np.shape(leaf))}"
        large = at_most is not None and size_of(leaf) > at_most
        marks[f"{where}.content"] = UNKNOWN if large else content(leaf)
    return marks


def of_first_batch(name: str, batch: Any) -> Fingerprint:
    """The fingerprint of an iterable, of which no more can be told than what its batches look like."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return {f"{name}.batches": repr([(path_name(path), dtype_name(x), list(np.shape(x))[1:]) for path, x in leaves])}


def of_value(name: str, value: Any) -> Fingerprint:
    """The fingerprint of a function, an optimizer or a settings object: its code, and the values that it closes over."""
    walk = Walk()
    walk.visit(name, value, 0)
    return walk.marks


def difference(saved: Fingerprint, current: Fingerprint) -> tuple[str, str | None, str | None] | None:
    """The first path at which two fingerprints differ and both tokens there, `None` where one has no such path."""
    unknown = {path for marks in (saved, current) for path, token in marks.items() if token == UNKNOWN}
    for path in dict.fromkeys((*current, *saved)):
        before, now = saved.get(path), current.get(path)
        if before != now and not any(_is_below(path, parent) for parent in unknown):
            return path, before, now
    return None


def of_run(
    *,
    params: Any,
    data: Mapping[str, Any],
    losses: tuple[Any, Any],
    optimizer: Any,
    state: Any,
    evaluation: Any,
    **settings: Any,
) -> dict[str, Fingerprint]:
    """The fingerprint of everything that decides a run, by what it is of.

    `data` holds arrays, lists of batches, or other iterables: nothing of these is known before their first batch. On many
    processes every process has another list.
    """
    one_process = jax.process_count() == 1
    sets = {
        name: of_arrays(name, x) if is_arrays(x) or (one_process and isinstance(x, list)) else {name: UNKNOWN}
        for name, x in data.items()
    }
    values = {"loss": losses[0], "forget_loss": losses[1], "optimizer": optimizer, **settings}
    marks = {"params": of_arrays("params", params), **sets, **{name: of_value(name, x) for name, x in values.items()}}
    marks["optimizer"] |= of_arrays("optimizer.state", state, at_most=SMALL)
    if evaluation is None:
        return {**marks, "evaluation": of_value("evaluation", None)}
    plain = dataclasses.replace(evaluation, splits={})
    splits = of_arrays("evaluation.splits", dict(evaluation.splits))
    return {**marks, "evaluation": of_value("evaluation", plain) | splits}


def combined(marks: Fingerprint) -> str:
    """The hash of a fingerprint, in whatever order its entries are."""
    return digest(repr(sorted(marks.items())))


def python_version() -> str:
    """The version that decides a function's byte code."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def without_code(marks: Fingerprint) -> Fingerprint:
    """What can be compared with another version of Python: byte code cannot."""
    return {path: UNKNOWN if path.endswith(".code") else token for path, token in marks.items()}


def _is_below(path: str, parent: str) -> bool:
    """Whether a path is another one, or lies below it."""
    return path == parent or (path.startswith(parent) and path[len(parent)] in ".[")
