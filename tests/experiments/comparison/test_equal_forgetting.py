"""Equal forgetting on two quadratics, where the least cost and that of every method are known in closed form.

The retain loss is `|w - a|^2 / 2`, the forget loss `|w - b|^2 / 2`. At the level `R^2 / 2` the least retain loss is that of the
point of the circle of radius `R` around `b` that is nearest to `a`. Steps are small, so that runs follow their flow.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from experiments import methods
from experiments.comparison.config import SweepSettings
from experiments.comparison.cost_curves import cost_curve
from experiments.comparison.equal_forgetting import EXPLAINED, Outcome, score
from experiments.comparison.modality import Modality
from experiments.comparison.sweep import run_sweep
from experiments.digits.config import METHOD, Sweep
from experiments.runs.run_store import read_run, run_and_store, run_directory
from experiments.runs.unlearning import COST, Record, Scenario

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")

A, B, START, RADIUS = np.array([0.0, 0.0]), np.array([0.3, 0.0]), np.array([0.05, 0.2]), 0.6
LEVEL = RADIUS**2 / 2
RATE, STEPS = 0.01, 400
ROUGHLY = RATE * RADIUS**2  # both gradients are shorter than the radius: the change of either loss in the last step


def loss(params: Any, batch: Any) -> Any:
    return 0.5 * jnp.sum((params - batch["center"]) ** 2, axis=-1)


def half_square(difference: np.ndarray) -> float:
    return float(difference @ difference) / 2


def measure(params: Any) -> Record:
    retain, forget = half_square(np.asarray(params) - A), half_square(np.asarray(params) - B)
    parts = dict.fromkeys(("retain", "validation retain", "test retain"), retain)
    parts |= dict.fromkeys(("forget", "validation forget", "test forget"), forget)
    return {f"{name}/{metric}": value for name, value in parts.items() for metric in ("loss", "accuracy")}


def record(settings: Sweep, mesh: Any = None) -> Record:
    retain, forget = ({"center": np.tile(center, (4, 1)).astype(np.float32)} for center in (A, B))
    params = jnp.asarray(START, jnp.float32)
    models = {"full": measure(START), "retrained": measure(A)}
    subject = methods.Subject(loss, params, forget, hamu_jax.Groups(lambda batch: batch["group"], 1))
    scenario = Scenario(subject, retain, {"forget": forget, COST: retain}, models, watched_metrics={}, measure=measure)
    directory = run_directory(settings, "quadratics")
    return read_run(directory) or run_and_store(settings, directory, scenario, mesh=mesh)[1]


QUADRATICS = Modality(
    program="quadratics",
    axes={},
    label=lambda _: "quadratics",
    record=record,
    scenario=lambda *_: pytest.fail("no timing here"),
    level=lambda *_: LEVEL,
    explained=EXPLAINED,
)


def cost(point: np.ndarray) -> float:
    """The rise of the retain loss."""
    return half_square(point - A) - half_square(START - A)


def crossing(direction: np.ndarray) -> np.ndarray:
    """Where the ray from the start meets the circle around `B`."""
    offset, direction = START - B, direction / np.linalg.norm(direction)
    along = offset @ direction
    return START + direction * (np.sqrt(along**2 - offset @ offset + RADIUS**2) - along)


OPTIMUM = cost(B + RADIUS * (A - B) / np.linalg.norm(A - B))
ASCENT = cost(crossing(START - B))  # gradient ascent moves away from b on a straight line
DIFFERENCE = cost(crossing(A - B))  # the mean of both gradients is constant, (b - a) / 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The methods at equal forgetting."""
    method = dataclasses.replace(METHOD, steps=STEPS, batch_size=4)
    grid = SweepSettings(
        methods=("ft", "ga", "gdiff", "hamu-q", "forget-hamu-q"),
        seeds=(0,),
        learning_rates=(RATE,),
        improvements=(0.5,),
        weights=(0.5,),
        extensions=0,
    )
    out = tmp_path_factory.mktemp("quadratics")
    path = run_sweep(QUADRATICS, "equal-forgetting", Sweep(method=method, sweep=grid, out=out))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| forget-hamu-q | 1 of 1 |" in path.read_text(encoding="utf-8")
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["methods"]


def test_runs_end_at_the_level(rows: dict[str, Any]) -> None:
    for name in ("ga", "gdiff", "hamu-q"):
        assert rows[name]["reached"] == 1
        assert LEVEL <= rows[name]["numbers"]["forget loss"][0] < LEVEL + ROUGHLY
        assert rows[name]["numbers"]["steps"][0] < STEPS
    assert rows["forget-hamu-q"]["numbers"]["forget loss"][0] >= LEVEL


def test_the_level_is_of_the_task_loss_whatever_a_method_minimises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As KL and SCRUB do, whose retain objective is another loss: the driver evaluates that one."""
    other = dataclasses.replace(methods.METHODS["gdiff"], retain=lambda _: lambda params, batch: 0.01 * loss(params, batch))
    monkeypatch.setitem(methods.METHODS, "other", other)
    method = dataclasses.replace(METHOD, method="other", steps=STEPS, batch_size=4, learning_rate=RATE)
    method = dataclasses.replace(method, level=LEVEL, evaluate_every=1)
    run = record(Sweep(method=method, out=tmp_path))
    assert LEVEL <= run["measured"]["forget/loss"] < LEVEL + ROUGHLY
    assert run["way"]["forget"]["loss"][0] == pytest.approx(half_square(START - B))
    assert run["way"][COST]["loss"][-1] == pytest.approx(run["measured"][f"{COST}/loss"])


def test_fine_tuning_does_not_reach_it(rows: dict[str, Any]) -> None:
    assert rows["ft"]["reached"] == 0
    assert set(rows["ft"]["numbers"].values()) == {None}


def test_costs_are_those_of_the_closed_forms(rows: dict[str, Any]) -> None:
    costs = {name: rows[name]["numbers"]["validation cost"][0] for name in ("ga", "gdiff", "hamu-q")}
    assert costs["ga"] == pytest.approx(ASCENT, abs=ROUGHLY)
    assert costs["gdiff"] == pytest.approx(DIFFERENCE, abs=ROUGHLY)
    assert costs["hamu-q"] == pytest.approx(OPTIMUM, abs=ROUGHLY)
    assert OPTIMUM + 2 * ROUGHLY < DIFFERENCE < ASCENT - 2 * ROUGHLY  # the order does not depend on the last step
    assert costs["hamu-q"] < costs["gdiff"] < costs["ga"]


def test_the_mean_cost_on_the_way_is_an_integral(rows: dict[str, Any]) -> None:
    """Of gradient ascent, whose way is known: the cost as a function of the forget loss, over all forget losses."""
    radii = np.linspace(np.linalg.norm(START - B), RADIUS, 10001)
    points = B + radii[:, None] * (START - B) / np.linalg.norm(START - B)
    costs = np.array([cost(point) for point in points])
    forgotten = radii**2 / 2
    expected = np.trapezoid(costs, forgotten) / (forgotten[-1] - forgotten[0])
    assert rows["ga"]["numbers"]["mean cost on the way"][0] == pytest.approx(expected, abs=ROUGHLY)


def way(forget: Sequence[float], retain: Sequence[float]) -> dict[str, Any]:
    return {"forget": {"loss": list(forget)}, COST: {"loss": list(retain)}}


def test_the_cost_is_that_of_the_first_model_that_forgot_as_much() -> None:
    curve = cost_curve(way([1.0, 2.0, 1.5, 4.0, 6.0, 9.0], [0.5, 0.7, 9.0, 0.6, 1.5, 7.0]), level=5.0)
    np.testing.assert_allclose(curve.forgotten, [0.0, 0.25, 0.75, 1.25])  # no fall back, nothing after the level
    np.testing.assert_allclose(curve.cost, [0.0, 0.2, 0.1, 1.0])
    np.testing.assert_allclose(curve.at(np.array([0.0, 0.25, 0.3, 1.0])), [0.0, 0.2, 0.1, 1.0])
    assert curve.mean == pytest.approx(0.25 * 0.2 + 0.5 * 0.1 + 0.25 * 1.0)


def test_a_curve_that_does_not_reach_the_level_has_no_mean() -> None:
    curve = cost_curve(way([1.0, 2.0], [0.5, 0.7]), level=5.0)
    assert curve.mean is None
    np.testing.assert_allclose(curve.at(np.array([0.25, 0.26])), [0.2, np.nan])


def test_a_model_that_has_forgotten_costs_nothing() -> None:
    assert cost_curve(way([6.0], [0.5]), level=5.0).mean == 0.0


def outcomes(reached: tuple[bool, ...], costs: tuple[float | None, ...], end: float = 1.0) -> list[Outcome]:
    curve = cost_curve(way([1.0], [0.5]), level=5.0)
    return [Outcome(r, {"validation cost": c, "forget loss": end}, curve) for r, c in zip(reached, costs, strict=True)]


def test_the_choice_reaches_the_level_first_and_is_cheap_then() -> None:
    ranked = [
        outcomes((True, True), (0.1, 0.2)),
        outcomes((True, True), (0.3, 0.2)),
        outcomes((True, True), (0.3, None)),
        outcomes((True, False), (0.0, -9.0)),
        outcomes((False, False), (0.0, 0.0), end=4.0),
        outcomes((False, False), (0.0, 0.0), end=2.0),
    ]
    scores = [score(some) for some in ranked]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
