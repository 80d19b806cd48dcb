"""Stopping: always before the step, whatever is already on its way; and what is left when numbers are not finite."""

import itertools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import ADAMW, RETAIN, SGD, bits, examples, linear, run, start

import hamu_jax
from hamu_jax import Patience, Stopping, Target
from hamu_jax._driver.blame import blame
from hamu_jax._driver.carry import first_carry
from hamu_jax._driver.step import driver_step
from hamu_jax._driver.stopping import Halt, after_evaluation, watch
from hamu_jax._gradients.paired import Paired

# With the linear loss g_r = (1, 0) always, and g_f = length (cos, sin): at q = 0.5 and r = |g_r| = 1 a rise of the retain loss
# is unavoidable below 30 degrees, the paper's criterion holds below 30 and above 150, and below |g_f| = 0.5 it is infeasible.
ALIKE, ACROSS, OPPOSED, WEAK = ((10, 1.0), (90, 1.0), (170, 1.0), (120, 0.3))
FEW = {name: leaf[:20] for name, leaf in RETAIN.items()}
AT_ZERO = {"w": jnp.zeros(2)}


def batch(angle: float, length: float = 1.0) -> np.ndarray:
    turn = np.radians(angle)
    return np.array([[length * np.cos(turn), length * np.sin(turn)]], np.float32)


def steer(*forget: tuple[float, float], steps: int = 9, **options: Any) -> hamu_jax.Unlearned:
    """A run whose forget gradient has these directions and lengths, in turn."""
    sets = {"retain": [batch(0)], "forget": [batch(*f) for f in forget], "batch_size": 1}
    return run(**sets, loss=linear, params=AT_ZERO, steps=steps, **options)


def test_the_same_set_on_both_sides_is_unavoidable() -> None:
    both = {"retain": FEW, "forget": FEW, "batch_size": 20}
    at_once = run(**both, stopping=Stopping(unavoidable=1))
    assert (at_once.status, at_once.steps, len(at_once.history.rows)) == ("unavoidable", 0, 1)
    assert bits(at_once.params) == bits(start()), "stopped before the update, not after it"
    third = run(**both, stopping=Stopping(unavoidable=3))
    assert (third.status, third.steps, len(third.history.rows)) == ("unavoidable", 2, 3)
    assert third.reason == "before step 2: the step must make the objective that is not guaranteed worse"
    assert bits(third.params) == bits(run(**both, steps=2).params)


@pytest.mark.parametrize(
    ("forget", "limits", "halt", "step"),
    [
        ((ALIKE, ALIKE, ACROSS), {"unavoidable": 2}, Halt.UNAVOIDABLE, 1),
        ((ALIKE, ALIKE, ACROSS), {"unavoidable": 3}, Halt.RUNNING, 9),
        ((ACROSS, ALIKE, ALIKE, ALIKE), {"unavoidable": 3}, Halt.UNAVOIDABLE, 3),
        ((ACROSS, OPPOSED), {"unavoidable": 1}, Halt.RUNNING, 9),
        ((ACROSS, OPPOSED), {"criterion": 1}, Halt.CRITERION, 1),
        ((ACROSS, ACROSS, WEAK, WEAK), {"infeasible": 2}, Halt.INFEASIBLE, 3),
        ((WEAK, ACROSS), {"infeasible": 2}, Halt.RUNNING, 9),
        ((ALIKE,), {"unavoidable": 2, "criterion": 2, "infeasible": 1}, Halt.UNAVOIDABLE, 1),
    ],
)
def test_streaks(forget: Any, limits: Any, halt: Halt, step: int) -> None:
    losses, streaks = Paired(jnp.float32(0), jnp.float32(0)), jnp.zeros(3, jnp.int32)
    for number, one in enumerate(itertools.islice(itertools.cycle(forget), 9)):
        hardness = hamu_jax.hardness(jnp.array(batch(0)[0]), jnp.array(batch(*one)[0]), 0.5)
        decided, streaks = watch(Stopping(**limits), losses, hardness, streaks, finite=jnp.bool_(True), rises=jnp.bool_(False))
        if decided != Halt.RUNNING:
            assert (decided, number) == (halt, step)
            return
    assert (halt, step) == (Halt.RUNNING, 9)


@pytest.mark.parametrize(
    ("forget", "limits", "status", "steps"),
    [
        ((ALIKE, ALIKE, ACROSS, ALIKE, ALIKE, ALIKE), {"unavoidable": 3}, "unavoidable", 5),
        ((ACROSS, WEAK, ACROSS, OPPOSED, OPPOSED), {"criterion": 2, "infeasible": 2}, "criterion", 4),
    ],
)
def test_streaks_in_a_run(forget: Any, limits: Any, status: str, steps: int) -> None:
    result = steer(*forget, stopping=Stopping(**limits))
    assert (result.status, result.steps) == (status, steps)
    assert bits(result.params) == bits(steer(*forget, steps=steps).params)


def test_the_columns_say_what_happened() -> None:
    history = steer(ALIKE, ACROSS, OPPOSED, WEAK, steps=4).history
    np.testing.assert_array_equal(history.column("unavoidable")[:4], [1, 0, 0, 0])
    np.testing.assert_array_equal(history.column("stopping_criterion")[:4], [1, 0, 1, 1])
    np.testing.assert_array_equal(history.column("infeasible")[:4], [0, 0, 0, 1])
    np.testing.assert_array_equal(history.column("direct")[:4], [0, 0, 1, 0])
    np.testing.assert_allclose(history.column("angle")[:4], [10, 90, 170, 120], rtol=1e-6)
    np.testing.assert_allclose(
        history.column("stopping_quantity")[:4], np.sin(np.radians([10, 90, 170, 120])) * [1, 1, 1, 0.3], rtol=1e-6
    )


@pytest.mark.parametrize("target", [Target("retain_loss", at_most=-0.12), Target("forget_loss", at_least=0.05)])
def test_a_batch_loss_reaches_its_target(target: Target) -> None:
    free = steer(ACROSS)
    values = free.history.column(target.column)[:9]
    first = int(np.flatnonzero(target.reached(values))[0])
    assert 0 < first < 9
    result = steer(ACROSS, stopping=Stopping(targets=(target,)))
    assert (result.status, result.steps) == ("target", first)
    assert result.reason == f"before step {first}: a loss reached its target"
    assert bits(result.params) == bits(steer(ACROSS, steps=first).params)


EVERY_2 = hamu_jax.Evaluation({"forget": batch(*ACROSS)}, every=2)


def test_an_evaluated_metric_reaches_its_target() -> None:
    # The forget loss rises by learning rate x q = 0.025 a step, and is looked at every other step.
    stopping = Stopping(targets=(Target("forget/loss", at_least=0.07), Target("retain_loss", at_most=-100.0)))
    result = steer(ACROSS, evaluation=EVERY_2, stopping=stopping)
    assert (result.status, result.steps) == ("target", 4)
    assert result.reason == "before step 4: forget/loss reached 0.1"
    assert bits(result.params) == bits(steer(ACROSS, steps=4).params)
    steps, values = result.history.measured("forget/loss")
    np.testing.assert_array_equal(steps, [0, 2, 4])
    np.testing.assert_allclose(values, [0, 0.05, 0.1], rtol=1e-6)


def test_patience_runs_out() -> None:
    result = steer(ACROSS, evaluation=EVERY_2, stopping=Stopping(patience=Patience("forget/loss", 2)))
    assert (result.status, result.steps) == ("patience", 4)
    assert result.reason == "before step 4: forget/loss has not improved for 2 evaluations"
    assert bits(result.params) == bits(steer(ACROSS, steps=4).params)
    rising = steer(ACROSS, evaluation=EVERY_2, stopping=Stopping(patience=Patience("forget/loss", 2, mode="max")))
    assert rising.status == "completed"


@pytest.mark.parametrize(
    ("values", "mode", "exhausted"),
    [
        ([3, 2], "min", False),
        ([3, 2, 2], "min", False),
        ([3, 2, 2, 2], "min", True),
        ([3, 2, 4, 1.9], "min", False),
        ([3, 4, 5], "min", True),
        ([1, 2, 3, 4], "max", False),
        ([1, 2, 1.5, 2], "max", True),
        ([3, None, None], "min", True),  # what is not finite is no improvement
        ([None, None, 2], "min", False),
        ([3, float("nan"), 2], "min", False),
        ([3, float("nan"), 4], "max", False),
    ],
)
def test_patience_counts_evaluations(values: list[float], mode: Any, exhausted: bool) -> None:
    rows = [row for value in values for row in ({"test/loss": value}, {"step": 1})]
    assert Patience("test/loss", 2, mode=mode).exhausted(rows) == exhausted


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_is_not_finite_reaches_no_target(value: Any) -> None:
    stopping = Stopping(targets=(Target("test/loss", at_most=1.0), Target("test/loss", at_least=1.0)))
    assert after_evaluation(stopping, [{"test/loss": value}]) is None


def test_order_of_precedence() -> None:
    hardness = hamu_jax.hardness(jnp.array([1.0, 0.0]), jnp.array([0.3, 0.0]), 0.5)  # infeasible, and all the rest
    targets = (Target("forget_loss", at_least=1.0),)
    losses, none = Paired(jnp.float32(2.0), jnp.float32(2.0)), jnp.zeros(3, jnp.int32)

    def halt(finite: bool, *, rises: bool = False, **limits: Any) -> int:
        flags = {"finite": jnp.bool_(finite), "rises": jnp.bool_(rises)}
        return int(watch(Stopping(**limits), losses, hardness, none, **flags)[0])

    limits = {"targets": targets, "unavoidable": 1, "criterion": 1, "infeasible": 1}
    assert halt(False, **limits) == Halt.NONFINITE
    for expected in (Halt.TARGET, Halt.UNAVOIDABLE, Halt.CRITERION, Halt.INFEASIBLE):
        assert halt(True, **limits) == expected
        limits.pop(next(iter(limits)))
    assert halt(True) == halt(True, rises=True) == Halt.RUNNING
    assert halt(True, rises=True, unavoidable=1) == Halt.UNAVOIDABLE, "the step's own gradients say it already"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target("loss"), "Target('loss'): got at_least=None, at_most=None, expected one of them"),
        (lambda: Target("loss", at_least=1.0, at_most=2.0), "Target('loss'): got at_least=1.0, at_most=2.0, expected one"),
        (lambda: Patience("loss", 0), "evaluations: got 0, expected a whole number of at least 1"),
        (lambda: Patience("loss", 2, mode="best"), "mode: got 'best', expected 'min' or 'max'"),
        (lambda: Stopping(unavoidable=0), "unavoidable: got 0, expected a whole number of at least 1"),
        (lambda: Stopping(criterion=True), "criterion: got True, expected a whole number of at least 1"),
        (lambda: Stopping(infeasible=-1), "infeasible: got -1, expected a whole number of at least 1"),
    ],
)
def test_conditions_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "stopping",
    [Stopping(targets=(Target("forget/acc", at_most=0.1),)), Stopping(patience=Patience("forget/acc", 3))],
)
def test_a_column_that_nobody_measures(stopping: Stopping) -> None:
    with pytest.raises(
        ValueError, match=re.escape("got column 'forget/acc', expected one of retain_loss, forget_loss, forget/loss")
    ):
        steer(ACROSS, evaluation=EVERY_2, stopping=stopping)
    with pytest.raises(ValueError, match=r"got column 'forget/acc', expected one of retain_loss, forget_loss$"):
        steer(ACROSS, stopping=stopping)


GOOD = [examples(30 + i, 4) for i in range(8)]


def with_nan(at: int) -> list[Any]:
    """Batches, one of which holds a NaN."""
    bad = {**GOOD[at], "y": np.array([0, np.nan, 0, 0], np.float32)}
    return [*GOOD[:at], bad, *GOOD[at + 1 :]]


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(("side", "value"), [("forget", np.nan), ("retain", np.inf)])
def test_a_bad_batch(side: str, value: float, optimizer: Any) -> None:
    sets = {"retain": GOOD, "forget": GOOD[::-1]}
    bad = {**sets[side][5], "y": sets[side][5]["y"].copy()}
    bad["y"][1] = value
    result = run(optimizer, **{**sets, side: [*sets[side][:5], bad, *sets[side][6:]]})
    assert (result.status, result.steps) == ("nonfinite", 4)
    assert result.reason == f"at step 5 the {side} loss is {value} and its gradient is not finite in 'b'"
    assert bits(result.params) == bits(run(optimizer, **sets, steps=4).params), "the last whose losses were finite"
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.state))
    assert [row["step"] for row in result.history.rows] == list(range(6))
    assert result.history.rows[5][f"{side}_loss"] is None
    assert np.all(np.isfinite(result.history.column("forget_loss")[:5]))
    json.dumps(result.history.rows, allow_nan=False)


def test_a_bad_first_batch() -> None:
    result = run(ADAMW, retain=GOOD, forget=with_nan(0))
    assert (result.status, result.steps) == ("nonfinite", 0)
    assert bits(result.params) == bits(start())


def test_the_last_good_parameters_are_evaluated() -> None:
    metrics = {"w0": lambda params, batch: jnp.broadcast_to(params["w"][0], batch["y"].shape)}
    evaluation = hamu_jax.Evaluation({"retain": RETAIN}, metrics, every=100)
    result = run(retain=GOOD, forget=with_nan(5), evaluation=evaluation)
    steps, weights = result.history.measured("retain/w0")
    np.testing.assert_array_equal(steps, [0, 4])
    np.testing.assert_allclose(weights[1], result.params["w"][0], rtol=1e-6)


@pytest.mark.parametrize("steps", [50, 2], ids=["seen by the next step", "done by the last"])
def test_a_loss_that_overflows(steps: int) -> None:
    def explosive(params: Any, batch: Any) -> Any:
        return jnp.exp((batch["x"] @ params["deep"]["w"]) ** 3)

    # Never feasible, so each step has length 1.2 along (1, 1, 1): x.w is 1, 3.1, 5.2, and exp(5.2^3) is too large.
    optimizer = hamu_jax.hamu(1.0, 1e30, radius=1.2)
    params = {"deep": {"w": jnp.full(3, 1 / 3)}}
    sets = {"retain": {"x": np.eye(3, dtype=np.float32)[:1]}, "forget": {"x": np.ones((1, 3), np.float32)}}
    result = run(optimizer, loss=explosive, params=params, steps=steps, **sets)
    assert (result.status, result.steps) == ("nonfinite", 1)
    assert result.reason == "at step 2 the forget loss is inf and its gradient is not finite in 'deep/w'"
    np.testing.assert_allclose(result.params["deep"]["w"], 1 / 3 + 1.2 / np.sqrt(3), rtol=1e-6)


def bad_update() -> optax.GradientTransformation:
    """A transformation whose updates are not finite."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: u / 0.0, updates))


def root(params: Any, batch: Any) -> Any:
    return jnp.sqrt(jnp.abs(batch @ params["w"]))


@pytest.mark.parametrize(
    ("function", "optimizer", "scale", "reason"),
    [
        (root, hamu_jax.hamu(0.1, 0.5), 1.0, "the retain loss is 0 and its gradient is not finite in 'w'"),
        (
            linear,
            optax.chain(hamu_jax.transform(0.5), bad_update()),
            1.0,
            "both gradients are finite, but the optimizer's update is not, in 'w'",
        ),
        (linear, hamu_jax.hamu(0.1, 0.5), 1e30, "the gradients are finite, but their inner products overflow"),
    ],
)
def test_what_is_blamed(function: Any, optimizer: Any, scale: float, reason: str) -> None:
    pair = (scale * batch(0), scale * batch(45))
    step = driver_step((function, function), optimizer, Stopping(), microbatch_size=None)
    assert blame(step, first_carry(AT_ZERO, optimizer), *pair) == reason
    with jax.disable_jit():
        carry, row = step.run(first_carry(AT_ZERO, optimizer), *pair, measure=False)
    assert row["halt"] == carry.halt == Halt.NONFINITE
    assert bits(carry.params) == bits(carry.previous) == bits(AT_ZERO)


def test_blame_for_a_gradient_that_is_finite() -> None:
    def constant(params: Any, batch: Any) -> Any:
        return linear(params, batch) + jnp.inf

    step = driver_step((linear, constant), SGD, Stopping(), microbatch_size=None)
    reason = blame(step, first_carry(AT_ZERO, SGD), batch(0), batch(45))
    assert reason == "the forget loss is inf and its gradient is finite"
