"""Which evaluated point a run returns."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import FORGET, RETAIN, SGD, bits, loss, run, start

import hamu_jax
from hamu_jax import Checkpoints, Evaluation, KeepBest

KEEP = KeepBest("held/loss", among="forget/outside")


def rows(*values: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    """Rows of evaluations `(held/loss, forget/outside)`, with rows between them that were not evaluated."""
    table: list[dict[str, Any]] = []
    for step, (cost, distance) in enumerate(values):
        table += [{"step": 2 * step, "held/loss": cost, "forget/outside": distance}, {"step": 2 * step + 1}]
    return table


@pytest.mark.parametrize(
    ("keep", "values", "best"),
    [
        (KEEP, [(1.0, 3.0), (2.0, 1.0), (9.0, 2.0)], 2),  # none is acceptable: the nearest
        (KEEP, [(1.0, 3.0), (2.0, 0.0), (1.5, 0.0), (1.4, 0.1)], 4),  # the cheapest of the acceptable ones
        (KEEP, [(2.0, 0.0), (2.0, 0.0)], 0),  # the first of two that are equal
        (KEEP, [(None, 0.0), (3.0, 5.0)], 2),  # what was not finite comes last
        (KeepBest("held/loss", "forget/outside", at_most=2.5), [(1.0, 3.0), (2.0, 1.0), (3.0, 0.0)], 2),  # too dear
        (KeepBest("held/loss"), [(3.0, None), (2.0, None), (4.0, None)], 2),
    ],
)
def test_the_best_by_hand(keep: KeepBest, values: Any, best: int) -> None:
    found = keep.best(rows(*values))
    assert found is not None
    assert found["step"] == best


def test_patience_begins_with_the_first_acceptable_point() -> None:
    keep = KeepBest("held/loss", "forget/outside", patience=2)
    far = [(1.0, 3.0)] * 9
    assert not keep.exhausted(rows(*far))
    assert not keep.exhausted(rows(*far, (5.0, 0.0), (6.0, 0.0)))
    assert keep.exhausted(rows(*far, (5.0, 0.0), (6.0, 0.0), (5.0, 0.0)))
    assert not keep.exhausted(rows(*far, (5.0, 0.0), (6.0, 0.0), (4.0, 0.0)))
    assert keep.best([{"step": 0}]) is None


def test_a_run_returns_the_best_point_and_resumes_to_it(tmp_path: Any) -> None:
    """SGD that forgets more and more: the retain loss is smallest early, and the last parameters are not returned."""
    held = {name: x[:50] for name, x in RETAIN.items()}
    away = {"b": jnp.float32(0.5), "w": start()["w"]}
    options = {"evaluation": Evaluation({"held": held}, every=2), "keep": KeepBest("held/loss"), "params": away}
    whole = run(**options)
    column = dict(zip(*whole.history.measured("held/loss"), strict=True))
    assert whole.best_step == min(column, key=lambda step: column[step])
    assert 0 < whole.best_step < 12
    assert bits(whole.params) == bits(run(steps=whole.best_step, params=away).params)
    run(**options, steps=8, checkpoints=Checkpoints(tmp_path / "c", every=2))
    again = run(**options, checkpoints=Checkpoints(tmp_path / "c", every=2))
    assert (again.best_step, bits(again.params)) == (whole.best_step, bits(whole.params))


def test_a_column_that_nobody_measures() -> None:
    with pytest.raises(ValueError, match=re.escape("keep: got column 'held/loss', expected one of those of an evaluation")):
        run(keep=KeepBest("held/loss"))
    with pytest.raises(ValueError, match=re.escape("keep: got column 'held/loss', expected one of test/loss")):
        run(keep=KeepBest("held/loss"), evaluation=Evaluation({"test": RETAIN}))
    with pytest.raises(ValueError, match=re.escape("patience: got 0, expected a whole number of at least 1")):
        KeepBest("held/loss", patience=0)


def test_without_it_the_last_parameters_are_returned() -> None:
    plain = hamu_jax.unlearn(loss, start(), RETAIN, FORGET, SGD, steps=3, progress=False)
    assert plain.best_step is None
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(plain.params))
