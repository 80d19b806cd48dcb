"""Does a deletion record tell the truth? Recomputes its hashes and, with a loss, its losses.

    python -m hamu_jax.verify RECORD --params after.npz --data forget=forget.npz --loss my_model:loss

Files are those of `save_arrays`. The exit code is 0 if every check passes, 1 if one fails, 2 if a check cannot be made.
"""

import argparse
import importlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hamu_jax._base.array_files import load_arrays, save_arrays
from hamu_jax._datasets.evaluate import evaluate
from hamu_jax._forget.problem import MOST_HELD_OUT, take_rows
from hamu_jax._forget.record import (
    IN_BOTH,
    DeletionRecord,
    check_chain,
    common_rows,
    content_hash,
    row_hashes,
)
from hamu_jax.metrics import auc, values

__all__ = ["load_arrays", "save_arrays", "verify"]

AUC_TOLERANCE = 1e-3  # two examples with nearly the same loss may change places
TOLERANCE = 1e-4  # of a loss, relative: other hardware rounds otherwise


def verify(
    record: DeletionRecord,
    *,
    params: Any = None,
    params_before: Any = None,
    data: dict[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    previous: DeletionRecord | Sequence[DeletionRecord] = (),
) -> list[tuple[str, bool]]:
    """Checks a deletion record against parameters and data.

    Args:
      record: the record.
      params: the parameters after unlearning, as a pytree.
      params_before: the parameters before.
      data: data sets by name: `retain`, `forget`, `held_out`, `unseen`.
      loss: `loss(params, batch) -> [batch]`, to compute the losses again.
      previous: the record before this one, or all earlier ones, the newest first.

    Returns:
      What was checked, in words, and whether it holds.

    Raises:
      ValueError: for the name of a data set that the record does not have.
    """
    chain = [previous] if isinstance(previous, DeletionRecord) else list(previous)
    return list(_checks(record, {"before": params_before, "after": params}, data or {}, loss, chain))


def _checks(
    record: DeletionRecord, params: dict[str, Any], data: dict[str, Any], loss: Any, chain: list[DeletionRecord]
) -> Iterator[tuple[str, bool]]:
    """Every check that can be made."""
    content = record.content
    yield "the record is as it was made", record.is_intact()
    if not record.is_intact():
        return
    for name, tree in params.items():
        if tree is not None:
            yield f"the parameters {name} are those of the record", content_hash(tree) == content["params"][name]
    for name, examples in data.items():
        if name not in content["data"]:
            raise ValueError(f"data: got {name!r}, expected one of {', '.join(content['data'])}")
        yield f"the {name} set is that of the record", content_hash(examples) == content["data"][name]["hash"]
        yield f"the {name} rows are those of the record", row_hashes(examples) == content["data"][name]["rows"]
    common = common_rows(content["data"], content["data"]["forget"]["rows"], IN_BOTH)
    yield f"no retain or held-out example is in the forget set{_because(common)}", common is None
    if loss is not None:
        yield from _losses(content, params, data, loss)
    for newer, older in itertools.pairwise([record, *chain]):
        problem = check_chain(newer, older)
        follows = "it follows the previous record" if newer is record else "the previous record follows the one before it"
        yield f"{follows}{_because(problem)}", problem is None


def _losses(content: dict[str, Any], params: dict[str, Any], data: dict[str, Any], loss: Any) -> Iterator[tuple[str, bool]]:
    """Whether the losses are those of the record."""
    for when, tree in params.items():
        sets = _evaluated(content, data) if tree is not None else {}
        for name, examples in sets.items():
            told = content["losses"].get(name, {}).get(when)
            if told is not None:
                value = evaluate(loss, tree, {name: examples})[f"{name}/loss"]
                holds = math.isclose(value, told, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
                yield f"the {name} loss {when} is {told:.6g} (computed: {value:.6g})", holds
        if content["auc"] is not None and {"forget", "unseen"} <= set(sets):
            value = auc(*(values(loss, tree, sets[name]) for name in ("forget", "unseen")))
            told = content["auc"][when]
            holds = math.isclose(value, told, abs_tol=AUC_TOLERANCE)
            yield f"the membership AUC {when} is {told:.6g} (computed: {value:.6g})", holds


def _evaluated(content: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The data sets whose losses the record has: what was held out of the retain set, and the first of its other examples."""
    sets = dict(data)
    if "retain" in data:
        aside = content.get("held_out_rows") or []
        if aside:
            sets["held_out"] = take_rows(data["retain"], np.asarray(aside))
        others = np.setdiff1d(np.arange(content["data"]["retain"]["examples"]), aside)
        sets["retain"] = take_rows(data["retain"], others[:MOST_HELD_OUT])
    protected = content.get("protected_rows") or []
    if "unseen" in data and protected:
        sets["protected"] = take_rows(data["unseen"], np.asarray(protected))
        others = np.setdiff1d(np.arange(content["data"]["unseen"]["examples"]), protected)
        sets["unseen"] = take_rows(data["unseen"], others)
    return sets


def _because(problem: str | None) -> str:
    """A reason in brackets, if there is one."""
    return "" if problem is None else f" ({problem})"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hamu_jax.verify", description="Does a deletion record tell the truth?")
    parser.add_argument("record", type=Path, help="the record, as `Forgotten.record(...).write` wrote it")
    parser.add_argument("--params", type=Path, help="parameters after unlearning (.npz)")
    parser.add_argument("--params-before", type=Path, help="parameters before (.npz)")
    parser.add_argument("--data", nargs="+", action="extend", default=[], metavar="NAME=FILE", help="data sets (.npz)")
    parser.add_argument("--loss", metavar="MODULE:FUNCTION", help="the loss, to compute losses again")
    parser.add_argument("--previous", nargs="+", type=Path, default=[], help="earlier records, the newest first")
    given = parser.parse_args(arguments)
    try:
        results = verify(
            DeletionRecord.read(given.record),
            params=None if given.params is None else load_arrays(given.params),
            params_before=None if given.params_before is None else load_arrays(given.params_before),
            data=dict(_named_file(text) for text in given.data),
            loss=None if given.loss is None else _imported(given.loss),
            previous=[DeletionRecord.read(path) for path in given.previous],
        )
    except (ValueError, TypeError, KeyError) as error:
        sys.stderr.write(f"verify: {error}\n")
        return 2
    for text, holds in results:
        shown = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
        sys.stdout.write(f"{'ok  ' if holds else 'FAIL'} {shown}\n")
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
