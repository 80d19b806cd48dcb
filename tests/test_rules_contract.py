"""What every rule must do, whatever it computes. A new rule is added to `RULES`."""

import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import rules

FALLBACKS = ("scale", "ascend", "skip")
RULES = {f"{make.__name__}-{name}": make(name) for make in (rules.hamu_q, rules.hamu_u) for name in FALLBACKS}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
BLOCKS = ("bias", "kernel")


def gradients(seed: int, dtype: Any = np.float32, count: int | None = None) -> dict[str, np.ndarray]:
    """A pytree of two leaves, each `[count, ...]` if given."""
    rng = np.random.default_rng(seed)
    lead = () if count is None else (count,)
    return {"kernel": rng.normal(size=(*lead, 3, 4)).astype(dtype), "bias": rng.normal(size=(*lead, 4)).astype(dtype)}


def step(retain: Any, forget: Any, improvement: Any = 0.3, *, rule: rules.Rule, clip_norm: float | None = None) -> Any:
    """One step: the update, the state before and the state after."""
    tx = hamu_jax.combine(rule, improvement=improvement, clip_norm=clip_norm)
    before = tx.init(retain)
    updates, after = tx.update(retain, before, forget_grads=forget)
    return updates, before, after


def many_steps(*batch: Any, rule: rules.Rule) -> Any:
    """Many steps at once."""
    return jax.vmap(functools.partial(step, rule=rule))(*batch)


jitted = jax.jit(step, static_argnames=("rule", "clip_norm"), compiler_options=PLAIN_COMPILE)
jitted_many = jax.jit(many_steps, static_argnames="rule", compiler_options=PLAIN_COMPILE)


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Every array, relative to its largest number."""
    for pair in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        x, y = (np.asarray(value, np.float64) for value in pair)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, np.max(np.abs(y))))


@every_rule
def test_jit_is_eager(rule: rules.Rule) -> None:
    retain, forget = (jax.tree.map(jnp.asarray, gradients(seed)) for seed in (0, 1))
    with jax.disable_jit():
        eager = step(retain, forget, rule=rule)
    assert_close(jitted(retain, forget, rule=rule), eager, 2e-6)


@every_rule
def test_vmap_is_a_loop(rule: rules.Rule) -> None:
    batch = gradients(2, count=4), gradients(3, count=4), np.linspace(0, 9, 4, dtype=np.float32)
    together = jitted_many(*batch, rule=rule)
    for i in range(4):
        alone = jitted(*jax.tree.map(lambda x, i=i: x[i], batch), rule=rule)
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone, 2e-6)


@every_rule
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bf16", "f16"])
def test_narrow_gradients(rule: rules.Rule, dtype: Any) -> None:
    """The update has the gradient's dtype, and is the float32 update of the same numbers, rounded once."""
    narrow = gradients(4, dtype), gradients(5, dtype)
    updates, _, state = jitted(*narrow, rule=rule)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert state.hardness.kappa.dtype == jnp.float32
    wide, _, _ = jitted(*jax.tree.map(lambda x: x.astype(np.float32), narrow), rule=rule)
    assert {x.dtype for x in jax.tree.leaves(wide)} == {jnp.dtype(np.float32)}
    assert_close(updates, wide, float(jnp.finfo(dtype).eps))


@every_rule
def test_float64(rule: rules.Rule) -> None:
    single, _, _ = jitted(gradients(4), gradients(5), rule=rule)
    with jax.enable_x64(True):
        double, _, state = jitted(gradients(4, np.float64), gradients(5, np.float64), rule=rule)
    assert {x.dtype for x in jax.tree.leaves((double, state.hardness.kappa))} == {jnp.dtype(np.float64)}
    assert_close(single, double, 1e-6)


@every_rule
def test_the_state_is_stable(rule: rules.Rule) -> None:
    _, before, after = jitted(gradients(6), gradients(7), rule=rule)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    assert (before.step, after.step) == (0, 1)


@every_rule
def test_zero_gradients(rule: rules.Rule) -> None:
    some, zero = gradients(8), jax.tree.map(np.zeros_like, gradients(8))
    for retain, forget in ((zero, zero), (some, zero), (zero, some)):
        updates, _, state = jitted(retain, forget, rule=rule)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))
        assert np.all(state.hardness.finite)
    for x in jax.tree.leaves(jitted(zero, zero, rule=rule)[0]):
        np.testing.assert_array_equal(x, 0)


@every_rule
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_non_finite_gradients_change_nothing_and_are_reported(rule: rules.Rule, clip_norm: float | None) -> None:
    for value, side, leaf in itertools.product((np.nan, np.inf, -np.inf), (0, 1), BLOCKS):
        pair = gradients(9), gradients(10)
        pair[side][leaf].flat[1] = value
        updates, _, state = jitted(*pair, rule=rule, clip_norm=clip_norm)
        np.testing.assert_array_equal(state.hardness.finite, [leaf != name for name in BLOCKS])
        assert not state.hardness.unavoidable
        assert (state.hardness.total_retain_change, state.hardness.total_forget_change) == (0, 0)
        chex.assert_trees_all_equal(optax.apply_updates(gradients(11), updates), gradients(11))


@every_rule
def test_solve_gives_one_coefficient_a_row(rule: rules.Rule) -> None:
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)
    residual = jnp.linalg.norm(vectors[0] - vectors[0] @ vectors[1] / (vectors[1] @ vectors[1]) * vectors[1])
    problem = rules.Problem(vectors @ vectors.T, residual, jnp.asarray(0.1), jnp.asarray(1.0))
    answer = jax.jit(rule.solve)(problem)
    assert (answer.rows.shape, answer.residual.shape, answer.regime.shape) == ((2,), (), ())
    assert (answer.rows.dtype, answer.residual.dtype, answer.regime.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    assert int(answer.regime) in set(hamu_jax.Regime)
