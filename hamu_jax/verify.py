"""Does a deletion record tell the truth? Recomputes its hashes and, with a loss, its losses.

    python -m hamu_jax.verify RECORD --params after.npz --data forget=forget.npz --loss my_model:loss

Files are those of `save_arrays`. The exit code is 0 if every check passes, 1 if one fails, 2 if a check cannot be made.
"""

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hamu_jax._base.array_files import load_arrays, save_arrays
from hamu_jax._datasets.evaluate import evaluate
from hamu_jax._driver.record import DeletionRecord, check_chain, content_hash, overlap, row_hashes

__all__ = ["load_arrays", "save_arrays", "verify"]

TOLERANCE = 1e-4  # of a loss, relative: other hardware rounds otherwise


def verify(
    record: DeletionRecord,
    *,
    params: Any = None,
    params_before: Any = None,
    data: dict[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    previous: DeletionRecord | None = None,
) -> list[tuple[str, bool]]:
    """Checks a deletion record against parameters and data.

    Args:
      record: the record.
      params: the parameters after unlearning, as a pytree.
      params_before: the parameters before.
      data: data sets by name: `retain`, `forget`, `held_out`, `unseen`.
      loss: `loss(params, batch) -> [batch]`, to compute the losses again.
      previous: the record before this one.

    Returns:
      What was checked, in words, and whether it holds.

    Raises:
      ValueError: for the name of a data set that the record does not have.
    """
    return list(_checks(record, {"before": params_before, "after": params}, data or {}, loss, previous))


def _checks(
    record: DeletionRecord, params: dict[str, Any], data: dict[str, Any], loss: Any, *chain: DeletionRecord | None
) -> Iterator[tuple[str, bool]]:
    """Every check that can be made."""
    content = record.content
    yield "the record is as it was made", record.is_intact()
    for name, tree in params.items():
        if tree is not None:
            yield f"the parameters {name} are those of the record", content_hash(tree) == content["params"][name]
    for name, examples in data.items():
        if name not in content["data"]:
            raise ValueError(f"data: got {name!r}, expected one of {', '.join(content['data'])}")
        yield f"the {name} set is that of the record", content_hash(examples) == content["data"][name]["hash"]
    if "forget" in data:
        yield "the forget rows are those of the record", row_hashes(data["forget"]) == content["forget_rows"]
    if {"retain", "forget"} <= set(data):
        yield "no retain example is in the forget set", not overlap(data["retain"], data["forget"])
    if loss is not None:
        yield from _losses(content, params, data, loss)
    for previous in chain:
        if previous is not None:
            problem = check_chain(record, previous)
            yield f"it follows the previous record{'' if problem is None else f' ({problem})'}", problem is None


def _losses(content: dict[str, Any], params: dict[str, Any], data: dict[str, Any], loss: Any) -> Iterator[tuple[str, bool]]:
    """Whether the losses are those of the record."""
    for when, tree in params.items():
        for name, examples in data.items() if tree is not None else ():
            told = content["losses"].get(name, {}).get(when)
            if told is None or name == "retain":  # the record has the mean over a part of the retain set
                continue
            value = evaluate(loss, tree, {name: examples})[f"{name}/loss"]
            holds = math.isclose(value, told, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            yield f"the {name} loss {when} is {told:.6g} (computed: {value:.6g})", holds


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hamu_jax.verify", description="Does a deletion record tell the truth?")
    parser.add_argument("record", type=Path, help="the record, as `Forgotten.record(...).write` wrote it")
    parser.add_argument("--params", type=Path, help="parameters after unlearning (.npz)")
    parser.add_argument("--params-before", type=Path, help="parameters before (.npz)")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE", help="a data set (.npz); may be repeated")
    parser.add_argument("--loss", metavar="MODULE:FUNCTION", help="the loss, to compute losses again")
    parser.add_argument("--previous", type=Path, help="the record before this one")
    given = parser.parse_args(arguments)
    try:
        results = verify(
            DeletionRecord.read(given.record),
            params=None if given.params is None else load_arrays(given.params),
            params_before=None if given.params_before is None else load_arrays(given.params_before),
            data=dict(_named_file(text) for text in given.data),
            loss=None if given.loss is None else _imported(given.loss),
            previous=None if given.previous is None else DeletionRecord.read(given.previous),
        )
    except (ValueError, TypeError, KeyError) as error:
        sys.stderr.write(f"verify: {error}\n")
        return 2
    for text, holds in results:
        sys.stdout.write(f"{'ok  ' if holds else 'FAIL'} {text}\n")
    return 0 if all(holds for _, holds in results) else 1


def _named_file(text: str) -> tuple[str, Any]:
    """The data set of `NAME=FILE`."""
    name, separator, path = text.partition("=")
    if not separator:
        raise ValueError(f"--data: got {text!r}, expected NAME=FILE")
    return name, load_arrays(path)


def _imported(text: str) -> Any:
    """The function of `MODULE:FUNCTION`, also from a module in the current directory."""
    module, separator, name = text.partition(":")
    if not separator:
        raise ValueError(f"--loss: got {text!r}, expected MODULE:FUNCTION")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--loss: got {text!r}, which cannot be imported ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
