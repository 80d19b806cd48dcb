"""Numbers that only a step knows: of schedules, of distribution functions, of requests that are absent."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import run

import hamu_jax

RETAIN = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
FORGET = {"a": jnp.array([0.3, 1.0]), "b": jnp.array([-1.0])}


def always(value: Any) -> Any:
    return lambda step: jnp.asarray(value)  # noqa: ARG005


def shares(value: Any) -> Any:
    return lambda retain, forget, kappa: jnp.full_like(kappa, value)  # noqa: ARG005


KINDS = {"q": {}, "u": {"variant": "u"}, "requests": {"forget_axis": 0, "num_requests": 2}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["radius", "improvement", "distribution"])
def test_no_step_is_taken_and_the_state_says_it(name: str, kind: str) -> None:
    forget = jax.tree.map(lambda x: jnp.stack([x, -0.5 * x + 1]), FORGET) if kind == "requests" else FORGET

    @jax.jit
    def step(value: Any) -> Any:
        number = shares(value) if name == "distribution" else always(value)
        tx = hamu_jax.transform(**{"improvement": 0.1, name: number, **KINDS[kind]})
        updates, state = tx.update(RETAIN, tx.init(RETAIN), forget_grads=forget)
        return updates, hamu_jax.get_hardness(state)

    for bad in (np.nan, np.inf, -1.0):
        updates, hardness = step(bad)
        assert not jnp.any(hardness.finite)
        assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(updates))  # not NaN either
        assert (hardness.total_forget_change, hardness.total_retain_change) == (0, 0)
    updates, hardness = step(0.2)
    assert jnp.all(hardness.finite)
    assert any(jnp.any(leaf) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"improvement": always([0.5, 0.5])}, "improvement: got a schedule that returns shape (2,), expected a number"),
        ({"radius": always([0.5])}, "radius: got a schedule that returns shape (1,), expected a number"),
        ({"improvement": always(0.5j)}, "improvement (a schedule's result): got complex64, expected real numbers"),
        ({"improvement": lambda _: None}, "improvement (a schedule's result): got objects, expected real numbers"),
        (
            {"distribution": lambda *_: jnp.ones(3)},
            "distribution: got an array of shape (3,), expected one share per block, (2,)",
        ),
        ({"distribution": lambda *_: None}, "distribution (its result): got objects, expected real numbers"),
    ],
)
def test_results_of_another_kind_are_errors_while_tracing(options: dict[str, Any], message: str) -> None:
    tx = hamu_jax.transform(**{"improvement": 0.5, **options})
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        jax.jit(lambda r, f: tx.update(r, tx.init(r), forget_grads=f))(RETAIN, FORGET)


def test_a_run_stops_and_names_the_number() -> None:
    """`radius=-1` reversed the step, and the run completed."""
    radius = lambda step: jnp.where(step < 2, 1.0, -1.0)  # noqa: E731
    ended = run(hamu_jax.hamu(0.05, 0.5, radius=radius), steps=5)
    assert (ended.status, ended.steps) == ("nonfinite", 1)
    assert "the radius of block 0 is nan: a schedule or a distribution function returned a number that is neg" in ended.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_absent_request_whose_gradient_is_not_finite(bad: float) -> None:
    """It is as if its gradient were 0: the same step as without it, to the bit."""
    tx = hamu_jax.transform(0.5, forget_axis=0, num_requests=3, blocks="global")
    present = jnp.array([True, False, True])
    step = jax.jit(lambda f: tx.update(RETAIN, tx.init(RETAIN), forget_grads=f, forget_present=present))
    stacked = [{name: jnp.stack([x, jnp.full_like(x, value), 0.5 - x]) for name, x in FORGET.items()} for value in (bad, 0.0)]
    (updates, state), (expected, _) = (step(forget) for forget in stacked)
    assert jnp.all(hamu_jax.get_hardness(state).finite)
    assert all(jnp.any(leaf) for leaf in jax.tree.leaves(updates))
    for got, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_an_implicit_stack_with_an_absent_request_that_is_not_finite() -> None:
    groups = hamu_jax.Groups(lambda batch: batch["owner"], 2, implicit=True)
    loss = lambda w, batch: batch["x"] @ w  # noqa: E731
    batch = {"x": jnp.array([[1.0, 0.5], [np.nan, 1.0]]), "owner": jnp.array([0, 1])}
    _, grads = hamu_jax.paired_value_and_grad(loss, forget_groups=groups)(jnp.ones(2), {"x": jnp.ones((1, 2))}, batch)
    tx = hamu_jax.transform(0.1, forget_axis=0, num_requests=2)
    updates, state = tx.update(
        grads.retain, tx.init(jnp.ones(2)), forget_grads=grads.forget, forget_present=jnp.array([True, False])
    )
    assert jnp.all(hamu_jax.get_hardness(state).finite)
    alone = hamu_jax.transform(0.1, forget_axis=0, num_requests=1)
    expected, _ = alone.update(grads.retain, alone.init(jnp.ones(2)), forget_grads=jnp.array([[1.0, 0.5]]))
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


def test_a_trade_off_with_shares_that_cannot_be() -> None:
    curve = hamu_jax.trade_off(RETAIN, FORGET, distribution=shares(-1.0))
    assert all(jnp.all(jnp.isnan(field)) for field in curve)
