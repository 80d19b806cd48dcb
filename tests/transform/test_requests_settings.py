"""What may be asked for every request, what becomes of gradients that say nothing, and what is told of bad input."""

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_gradient_problems import PLAIN_COMPILE, flat, tree_of

import hamu_jax

PARAMS = tree_of(np.random.default_rng(1), (), np.float32)
RETAIN = tree_of(np.random.default_rng(2), (), np.float32)
FORGET = jax.tree.map(
    lambda g, noise: jnp.expand_dims(g, 0) + 0.5 * noise, RETAIN, tree_of(np.random.default_rng(3), (3,), np.float32)
)


def run(tx: Any, steps: int = 1, retain: Any = RETAIN, forget: Any = FORGET) -> Any:
    """Steps one by one, outside jit."""
    state = tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(retain, state, PARAMS, forget_grads=forget)
    return updates, state


def test_a_number_is_for_every_request() -> None:
    one, state = run(hamu_jax.transform(0.2, forget_axis=0, num_requests=3))
    many, _ = run(hamu_jax.transform(jnp.full(3, 0.2), forget_axis=0))
    listed, _ = run(hamu_jax.transform(np.full(3, 0.2, np.float32), forget_axis=0, num_requests=3))
    chex.assert_trees_all_equal(one, many, listed)
    assert np.all(hamu_jax.get_requests(state).change >= 0.2 - 1e-5)  # 1e-6 of `|g_i| r`


def test_an_improvement_of_its_own_for_each_and_a_learning_rate() -> None:
    required = np.array([0.0, 0.1, 0.4], np.float32)
    tx = optax.chain(hamu_jax.hamu(0.1, required, forget_axis=0), optax.identity())
    updates, state = run(tx)
    promised = hamu_jax.get_requests(state).change
    assert np.all(promised >= required - 1e-5)  # 1e-6 of `|g_i| r`
    np.testing.assert_allclose(flat(FORGET, 1) @ flat(updates, 0), 0.1 * np.asarray(promised), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("each", [False, True])
def test_a_schedule(each: bool) -> None:
    def schedule(step: Any) -> Any:
        q = 0.1 * (step.astype(jnp.float32) + 1.0)
        return jnp.stack([q, 0.5 * q, jnp.zeros_like(q)]) if each else q

    tx = hamu_jax.transform(schedule, forget_axis=0, num_requests=3)
    _, state = run(tx, 4)
    assert state.step == 4
    required = jnp.asarray([0.4, 0.2, 0.0]) if each else jnp.full(3, 0.4)
    _, expected = run(hamu_jax.transform(required, forget_axis=0))
    chex.assert_trees_all_close(state.requests, expected.requests, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["retain", "forget"])
def test_a_gradient_that_is_not_finite(where: str, value: float) -> None:
    broken = {"retain": RETAIN, "forget": FORGET}
    tree = broken[where]
    broken[where] = {**tree, "b": tree["b"].at[(1,) * tree["b"].ndim].set(value)}
    updates, state = run(hamu_jax.transform(0.2, forget_axis=0, num_requests=3), **broken)
    np.testing.assert_array_equal(flat(updates, 0), 0.0)
    np.testing.assert_array_equal(state.hardness.finite, [True, False])
    np.testing.assert_array_equal(state.requests.change, 0.0)


def test_a_request_without_a_gradient() -> None:
    """Nothing can be promised to it, and so to none; unless nothing is required."""
    forget = jax.tree.map(lambda x: x.at[1].set(0.0), FORGET)
    updates, state = run(hamu_jax.transform(0.2, forget_axis=0, num_requests=3), forget=forget)
    np.testing.assert_array_equal(flat(updates, 0), 0.0)
    np.testing.assert_array_equal(state.requests.fraction, 0.0)
    _, state = run(hamu_jax.transform(jnp.array([0.2, 0.0, 0.2]), forget_axis=0), forget=forget)
    np.testing.assert_array_equal(state.requests.fraction, 1.0)
    assert np.all(state.requests.change[jnp.array([0, 2])] >= 0.2 - 1e-5)  # 1e-6 of `|g_i| r`


def test_one_trace_for_five_steps_and_a_scan() -> None:
    transform = hamu_jax.transform(lambda step: 0.1 + 0.1 * step, blocks="global", forget_axis=0, num_requests=3)
    tx = optax.chain(transform, optax.sgd(0.1))
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(state: Any, scale: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # the schedule's
            updates, state = tx.update(jax.tree.map(lambda g: scale * g, RETAIN), state, PARAMS, forget_grads=FORGET)
        return state, (updates, hamu_jax.get_requests(state))

    compiled, first, scales = jax.jit(step, compiler_options=PLAIN_COMPILE), tx.init(PARAMS), jnp.arange(1.0, 6.0)
    state, rows = first, []
    for scale in scales:
        state, row = compiled(state, scale)
        rows.append(row)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
    assert jax.tree.structure(state) == jax.tree.structure(first)
    scanned = jax.jit(lambda state: jax.lax.scan(step.__wrapped__, state, scales), compiler_options=PLAIN_COMPILE)
    ended, stacked = scanned(first)
    chex.assert_trees_all_close(ended, state, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(stacked, jax.tree.map(lambda *xs: jnp.stack(xs), *rows), rtol=1e-5, atol=1e-5)
    # Requirements of 0.1 to 0.5 are met, and one of them is no more than met; 1e-6 of `|g_i| r`, which is up to 70.
    np.testing.assert_allclose(np.min(stacked[1].change, axis=1), np.arange(1, 6) / 10, atol=7e-5)


MANY = {"forget_axis": 0, "num_requests": 3}


@pytest.mark.parametrize(
    ("improvement", "options", "message"),
    [
        (0.1, {"forget_axis": 0}, "num_requests: got None, expected how many requests there are, or an improvement for each"),
        (lambda step: step, {"forget_axis": 0}, "num_requests: got None, expected how many requests"),
        (0.1, {**MANY, "num_requests": 0}, "num_requests: got 0, expected a whole number of at least 1"),
        (0.1, {**MANY, "num_requests": 2.0}, "num_requests: got 2.0, expected a whole number of at least 1"),
        (np.ones(2), MANY, "num_requests: got 3, expected 2 as in improvement"),
        (np.ones(0), {"forget_axis": 0}, "num_requests: got 0, expected a whole number of at least 1"),
        (np.array([1.0, -2.0, 0.0]), MANY, "improvement[1]: got -2.0, expected a number of at least 0"),
        (np.array([1.0, 1.0, np.nan]), MANY, "improvement[2]: got nan, expected a number of at least 0"),
        (np.ones((3, 1)), MANY, "improvement: got"),
        (-0.1, MANY, "improvement: got -0.1, expected a number of at least 0"),
        (np.ones(3), {}, "improvement: got"),
        (0.1, {**MANY, "variant": "u"}, "forget_axis: got 0 with variant='u', infeasible='scale', expected 'q' and 'scale'"),
        (0.1, {**MANY, "infeasible": "skip"}, "forget_axis: got 0 with variant='q', infeasible='skip'"),
        (0.1, {**MANY, "forget_axis": 1}, "forget_axis: got 1, expected None or 0"),
        (0.1, {**MANY, "forget_axis": False}, "forget_axis: got False, expected None or 0"),
        (0.1, {**MANY, "retain_axis": 1}, "retain_axis: got 1, expected None or 0"),
        (0.1, {"num_requests": 3}, "num_requests, retain_axis: expected None with a rule for one forget objective"),
        (0.1, {"retain_axis": 0}, "num_requests, retain_axis: expected None with a rule for one forget objective"),
    ],
)
def test_settings_that_cannot_be(improvement: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        hamu_jax.transform(improvement, **options)


GROUPS = jax.tree.map(lambda x: jnp.stack([x, x]), RETAIN)


@pytest.mark.parametrize(
    ("retain", "forget", "options", "message"),
    [
        (RETAIN, None, {}, "forget_grads: got nothing, expected the gradients of 3 forget losses, stacked on axis 0"),
        (RETAIN, jax.tree.map(lambda x: x[:2], FORGET), {}, "forget_grads: got 2 requests on axis 0, expected 3"),
        (RETAIN, {**FORGET, "b": FORGET["b"][:2]}, {}, "forget_grads: got 2 examples at 'b', expected 3 as at 'a'"),
        (
            RETAIN,
            {**FORGET, "b": FORGET["b"][0, 0]},
            {},
            "forget_grads: got a 0-d leaf at 'b', expected a leading example axis",
        ),
        (RETAIN, {"a": FORGET["a"]}, {}, "forget_grads (one request): got 1 leaves, expected 2 as in updates"),
        (RETAIN, {"a": FORGET["a"], "c": FORGET["b"]}, {}, "forget_grads (one request): got the leaf 'c' where updates"),
        (RETAIN, {**FORGET, "b": FORGET["b"][:, 1:]}, {}, "forget_grads (one request): got shape (3,) at 'b', expected (4,)"),
        (GROUPS, FORGET, {}, "forget_grads (one request): got shape (2, 3) at 'a', expected (2, 2, 3)"),
        (RETAIN, FORGET, {"retain_axis": 0}, "updates (the retain gradient): got 4 examples at 'b', expected 2 as at 'a'"),
        ({**RETAIN, "b": jnp.float32(1)}, FORGET, {"retain_axis": 0}, "updates (the retain gradient): got a 0-d leaf at 'b'"),
    ],
)
def test_gradients_that_cannot_be(retain: Any, forget: Any, options: dict[str, Any], message: str) -> None:
    tx = hamu_jax.transform(0.1, **MANY, **options)
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.update(retain, tx.init(PARAMS), PARAMS, forget_grads=forget)


def test_gradients_must_be_floating_point() -> None:
    tx = hamu_jax.transform(0.1, **MANY)
    with pytest.raises(TypeError, match=re.escape("forget_grads: got int32 at 'b', expected a floating-point array")):
        tx.update(RETAIN, tx.init(PARAMS), PARAMS, forget_grads={**FORGET, "b": FORGET["b"].astype(jnp.int32)})
