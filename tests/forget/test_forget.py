"""Forgetting to a level, on problems whose right answer is known."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import bits

import hamu_jax
from hamu_jax import Checkpoints, Groups, rules
from hamu_jax._driver.fingerprint import of_value

AXES = np.eye(3, dtype=np.float32)


def rows(*names: str) -> dict[str, np.ndarray]:
    """Examples of `distance`: which coordinate each looks at, and the value at which its loss is zero."""
    table = {"retain": (0, 0.0), "first": (1, 0.0), "second": (2, 0.0), "both": (3, 0.0)}
    axes = np.concatenate([AXES, np.ones((1, 3), np.float32) / np.sqrt(3).astype(np.float32)])
    return {
        "direction": np.stack([axes[table[name][0]] for name in names]),
        "owner": np.array([{"first": 0, "second": 1}.get(name, -1) for name in names], np.int32),
    }


def distance(params: Any, batch: Any) -> Any:
    """Quadratics: half the square of one coordinate of the parameters, or of their mean."""
    return 0.5 * (batch["direction"] @ params) ** 2


RETAIN, HELD = rows(*["retain"] * 12), rows("retain")
START = jnp.array([0.3, 0.2, 0.1])
QUIET = {"progress": False, "held_out": HELD}


def test_a_level_that_costs_nothing_is_reached_at_no_cost() -> None:
    result = hamu_jax.forget(distance, START, RETAIN, rows("first"), level=2.0, **QUIET)
    assert result.status == "reached"
    assert result.losses["forget"].after == pytest.approx(2.0, rel=0.1)
    assert result.losses["held_out"].after < 1e-3
    assert result.losses["held_out"].before == pytest.approx(0.045)
    assert result.params[2] == pytest.approx(0.1, abs=1e-6), "what no loss reads stays where it was"
    assert result.verdict.startswith("Forgotten: ")


def test_also_from_the_minimum_of_the_retain_loss() -> None:
    """There the retain gradient is zero, and with it every step whose length it sets."""
    result = hamu_jax.forget(distance, jnp.array([0.0, 0.2, 0.0]), RETAIN, rows("first"), level=2.0, **QUIET)
    assert result.status == "reached"
    assert result.losses["held_out"].after == pytest.approx(0.0, abs=1e-4)


def test_a_level_that_has_a_price_costs_the_least() -> None:
    """Retain looks at all coordinates alike, forget at the first: of all points at the level the cheapest has mean zero."""
    retain = rows(*["both"] * 12)
    near = jnp.array([0.2, 0.2, 0.0])
    result = hamu_jax.forget(distance, near, retain, rows("first"), level=2.0, progress=False, held_out=retain)
    assert result.losses["forget"].after == pytest.approx(2.0, rel=0.1)
    assert result.losses["held_out"].after < 2e-3
    assert abs(float(jnp.sum(result.params))) < 0.15


def test_a_loss_above_the_band_may_fall_again() -> None:
    """A step that raises the forget loss too far is not the end: the band has two sides."""
    retain = rows(*["both"] * 12)
    far = jnp.array([0.5, 1.0, -0.1])
    result = hamu_jax.forget(distance, far, retain, rows("first"), level=0.6, held_out=retain, progress=False)
    assert result.losses["forget"].before == pytest.approx(0.5)
    assert 0.54 <= result.losses["forget"].after <= 0.66


def test_a_price_that_is_too_high_is_not_paid() -> None:
    """Both losses look at the same coordinate: the farthest point within the price, and the status says so."""
    same = {name: rows(*["first"] * 8) for name in ("retain", "held_out")}
    options = {"level": 2.0, "progress": False}
    result = hamu_jax.forget(distance, START, forget=rows("first"), max_cost=0.5, **same, **options)
    assert result.status == "not_reached"
    assert 0.05 < result.losses["held_out"].after - result.losses["held_out"].before <= 0.5
    assert result.verdict.startswith("NOT forgotten")
    free = hamu_jax.forget(distance, START, forget=rows("first"), **same, **options)
    assert free.status == "reached_at_higher_cost"
    assert free.losses["forget"].after == pytest.approx(2.0, rel=0.1)


def test_what_is_forgotten_already_is_left_alone() -> None:
    result = hamu_jax.forget(distance, START, RETAIN, rows("first"), level=0.02, **QUIET)
    assert (result.status, result.best_step, len(result.history.rows)) == ("nothing_to_do", 0, 1)
    assert bits(result.params) == bits(START)
    assert result.losses["forget"].before == result.losses["forget"].after == pytest.approx(0.02)


def test_each_request_reaches_its_own_level() -> None:
    groups = Groups(lambda batch: batch["owner"], 2)
    forget = rows("first", "second", "second")
    result = hamu_jax.forget(distance, START, RETAIN, forget, level=(0.5, 2.0), requests=groups, **QUIET)
    assert result.status == "reached"
    np.testing.assert_allclose(0.5 * np.asarray(result.params[1:]) ** 2, [0.5, 2.0], rtol=0.1)
    assert result.level == (0.5, 2.0)


def test_a_request_that_is_at_its_level_asks_nothing() -> None:
    groups = Groups(lambda batch: batch["owner"], 2)
    result = hamu_jax.forget(distance, START, RETAIN, rows("first", "second"), level=(0.02, 1.0), requests=groups, **QUIET)
    assert result.status == "reached"
    assert float(result.params[1]) == pytest.approx(0.2, abs=2e-3)


def test_the_level_of_unseen_data() -> None:
    """Their mean loss under the original parameters; the two sets can be told apart before, and by nothing after."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 40)).astype(np.float32)
    y = rng.normal(size=60).astype(np.float32)

    def loss(w: Any, batch: Any) -> Any:
        return (batch["x"] @ w - batch["y"]) ** 2

    def part(begin: int, end: int) -> dict[str, np.ndarray]:
        return {"x": x[begin:end], "y": y[begin:end]}

    w = jnp.asarray(np.linalg.lstsq(x[:36], y[:36], rcond=None)[0] * 0.98)
    result = hamu_jax.forget(loss, w, part(0, 30), part(30, 36), unseen=part(36, 60), progress=False)
    level = float(jnp.mean(loss(w, part(36, 60))))
    assert result.level[0] == pytest.approx(level, rel=1e-5)
    assert result.losses["forget"].after == pytest.approx(level, rel=0.1)
    assert not result.held_out_given
    assert result.auc is not None
    assert result.auc.before > 0.95
    assert 0.3 < result.auc.after < 0.7
    assert result.losses["retain"].after < 0.1 * level


def test_it_resumes_to_the_same_bits(tmp_path: Any) -> None:
    options = {"level": 2.0, **QUIET}
    whole = hamu_jax.forget(distance, START, RETAIN, rows("first"), **options, steps=14)
    for at in (3, 9):
        store = Checkpoints(tmp_path / str(at), every=3)
        hamu_jax.forget(distance, START, RETAIN, rows("first"), **options, steps=at, checkpoints=store)
        again = hamu_jax.forget(distance, START, RETAIN, rows("first"), **options, steps=14, checkpoints=store)
        assert (bits(again.params), again.best_step, again.status) == (bits(whole.params), whole.best_step, whole.status)


def test_a_rule_without_promises_ends_at_the_level() -> None:
    result = hamu_jax.forget(distance, START, RETAIN, rows("first"), level=2.0, rule=rules.gdiff(), **QUIET, tolerance=0.3)
    assert result.status == "reached"
    assert result.losses["forget"].after == pytest.approx(2.0, rel=0.3)
    told = result.problem.settings["rule"]
    assert told == of_value("rule", rules.gdiff().solve)
    assert told != of_value("rule", rules.ascent().solve)
    assert "0x" not in str(told), "an address says nothing to another process"


def test_a_forget_set_without_a_gradient_is_not_forgotten() -> None:
    result = hamu_jax.forget(distance, jnp.array([0.3, 0.0, 0.0]), RETAIN, rows("first"), level=1.0, **QUIET)
    assert (result.status, result.losses["forget"].after) == ("not_reached", 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "level: got None with unseen=None, expected unseen=data of the same kind"),
        ({"level": np.nan}, "level: got nan, expected a finite number"),
        ({"level": (1.0, 2.0)}, "level: got 2 numbers, expected a number"),
        ({"level": 1.0, "tolerance": 0.0}, "tolerance: got 0.0, expected a positive number"),
        ({"level": 1.0, "max_cost": -1.0}, "max_cost: got -1.0, expected a number of at least 0"),
        ({"level": 1.0, "steps": 0}, "steps: got 0, expected a whole number of at least 1"),
        ({"level": 1.0, "retain": [RETAIN]}, "retain: got list, expected a pytree of arrays"),
        ({"level": 1.0, "retain": rows("retain"), "held_out": None}, "retain: got 1 example, expected at least 2"),
        (
            {"level": 1.0, "requests": Groups(lambda batch: batch["owner"], 3)},
            "requests: got no example of request 1 in the forget set",
        ),
    ],
)
def test_errors_come_first(options: dict[str, Any], message: str) -> None:
    given = {"retain": RETAIN, "forget": rows("first"), **QUIET, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        hamu_jax.forget(distance, START, **given)


def test_a_classifier_is_told_what_a_guess_has() -> None:
    loss = hamu_jax.objectives.cross_entropy(lambda w, batch: batch["x"] @ w)
    data = {"x": np.eye(4, dtype=np.float32), "label": np.zeros(4, np.int32)}
    with pytest.raises(ValueError, match=re.escape("for a classifier of 10 classes a guess has level=2.303")):
        hamu_jax.forget(loss, jnp.zeros((4, 10)), data, data)


def test_one_trace_for_a_whole_run() -> None:
    traced = 0

    def counted(params: Any, batch: Any) -> Any:
        nonlocal traced
        traced += 1
        return distance(params, batch)

    hamu_jax.forget(counted, START, RETAIN, rows("first"), level=2.0, **QUIET, steps=5)
    short, traced = traced, 0
    jax.clear_caches()
    hamu_jax.forget(counted, START, RETAIN, rows("first"), level=2.0, **QUIET, steps=12)
    assert traced == short
