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
from gradient_pairs import REQUIRE_NOTHING
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import rules

FALLBACKS = ("scale", "ascend", "skip")
RULES = {
    **{f"{make.__name__}-{name}": make(name) for make in (rules.hamu_q, rules.hamu_u) for name in FALLBACKS},
    "projected": rules.projected(),  # with one request
    **REQUIRE_NOTHING,
}
APART = ("projected",)  # its solver is nearly all of the compilation
GROUPS = [tuple(name for name in RULES if name not in APART), APART]
every_rule = pytest.mark.parametrize("name", RULES)
every_rule_compiled_anew = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in APART else name for name in RULES]
)
BLOCKS = ("bias", "kernel")


def gradients(seed: int, dtype: Any = np.float32, count: int | None = None) -> dict[str, np.ndarray]:
    """A pytree of two leaves, each `[count, ...]` if given."""
    rng = np.random.default_rng(seed)
    lead = () if count is None else (count,)
    return {"kernel": rng.normal(size=(*lead, 3, 4)).astype(dtype), "bias": rng.normal(size=(*lead, 4)).astype(dtype)}


def step(retain: Any, forget: Any, improvement: Any = 0.3, *, rule: rules.Rule, clip_norm: float | None = None) -> Any:
    """One step: the update, the state before and the state after."""
    requests = {"num_requests": 1} if rule.many else {}
    tx = hamu_jax.combine(rule, improvement=improvement, clip_norm=clip_norm, **requests)
    before = tx.init(retain)
    updates, after = tx.update(retain, before, forget_grads=jax.tree.map(lambda x: x[None], forget) if rule.many else forget)
    return updates, before, after


def steps(*gradients_: Any, names: tuple[str, ...], clip_norm: float | None = None) -> dict[str, Any]:
    """One step of each of several rules: compiled together, since compilation is what this suite waits for."""
    return {name: step(*gradients_, rule=RULES[name], clip_norm=clip_norm) for name in names}


def many_steps(*batch: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Many steps at once."""
    return jax.vmap(functools.partial(steps, names=names))(*batch)


compiled = functools.partial(jax.jit, compiler_options=PLAIN_COMPILE)
jitted_steps = compiled(steps, static_argnames=("names", "clip_norm"))
jitted_many_steps = compiled(many_steps, static_argnames="names")


def group_of(name: str) -> tuple[str, ...]:
    """The rules that are compiled together with this one."""
    return next(group for group in GROUPS if name in group)


def jitted(*gradients_: Any, name: str, clip_norm: float | None = None) -> Any:
    """`step`, compiled."""
    return jax.device_get(jitted_steps(*gradients_, names=group_of(name), clip_norm=clip_norm)[name])


def jitted_many(*batch: Any, name: str) -> Any:
    """Many steps at once, compiled."""
    return jax.device_get(jitted_many_steps(*batch, names=group_of(name))[name])


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Every array, relative to its largest number."""
    for pair in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        x, y = (np.asarray(value, np.float64) for value in pair)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, np.max(np.abs(y))))


@every_rule_compiled_anew
def test_jit_is_eager(name: str) -> None:
    retain, forget = (jax.tree.map(jnp.asarray, gradients(seed)) for seed in (0, 1))
    with jax.disable_jit():
        eager = step(retain, forget, rule=RULES[name])
    assert_close(jitted(retain, forget, name=name), eager, 2e-6)


@every_rule_compiled_anew
def test_vmap_is_a_loop(name: str) -> None:
    batch = gradients(2, count=4), gradients(3, count=4), np.linspace(0, 9, 4, dtype=np.float32)
    together = jitted_many(*batch, name=name)
    for i in range(4):
        alone = jitted(*jax.tree.map(lambda x, i=i: x[i], batch), name=name)
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone, 2e-6)


@every_rule_compiled_anew
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bf16", "f16"])
def test_narrow_gradients(name: str, dtype: Any) -> None:
    """The update has the gradient's dtype, and is the float32 update of the same numbers, rounded once."""
    narrow = gradients(4, dtype), gradients(5, dtype)
    updates, _, state = jitted(*narrow, name=name)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert state.hardness.kappa.dtype == jnp.float32
    wide, _, _ = jitted(*jax.tree.map(lambda x: x.astype(np.float32), narrow), name=name)
    assert {x.dtype for x in jax.tree.leaves(wide)} == {jnp.dtype(np.float32)}
    assert_close(updates, wide, float(jnp.finfo(dtype).eps))


@every_rule_compiled_anew
def test_float64(name: str) -> None:
    single, _, _ = jitted(gradients(4), gradients(5), name=name)
    with jax.enable_x64(True):
        double, _, state = jitted(gradients(4, np.float64), gradients(5, np.float64), name=name)
    assert {x.dtype for x in jax.tree.leaves((double, state.hardness.kappa))} == {jnp.dtype(np.float64)}
    assert_close(single, double, 1e-6)


@every_rule
def test_the_state_is_stable(name: str) -> None:
    _, before, after = jitted(gradients(6), gradients(7), name=name)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    assert (before.step, after.step) == (0, 1)


@every_rule
def test_zero_gradients(name: str) -> None:
    some, zero = gradients(8), jax.tree.map(np.zeros_like, gradients(8))
    for retain, forget in ((zero, zero), (some, zero), (zero, some)):
        updates, _, state = jitted(retain, forget, name=name)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))
        assert np.all(state.hardness.finite)
    for x in jax.tree.leaves(jitted(zero, zero, name=name)[0]):
        np.testing.assert_array_equal(x, 0)


@every_rule_compiled_anew
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_non_finite_gradients_change_nothing_and_are_reported(name: str, clip_norm: float | None) -> None:
    for value, side, leaf in itertools.product((np.nan, np.inf, -np.inf), (0, 1), BLOCKS):
        pair = gradients(9), gradients(10)
        pair[side][leaf].flat[1] = value
        updates, _, state = jitted(*pair, name=name, clip_norm=clip_norm)
        np.testing.assert_array_equal(state.hardness.finite, [leaf != block for block in BLOCKS])
        assert not state.hardness.unavoidable
        assert (state.hardness.total_retain_change, state.hardness.total_forget_change) == (0, 0)
        chex.assert_trees_all_equal(optax.apply_updates(gradients(11), updates), gradients(11))


@every_rule
def test_predicted_changes_are_those_of_the_update(name: str) -> None:
    retain, other = gradients(12), gradients(13)
    for share in (-2.0, 0.0, 2.0):  # opposed, unrelated, and aligned gradients
        forget = jax.tree.map(lambda x, y, share=share: (share * x + y).astype(np.float32), retain, other)
        updates, _, state = jitted(retain, forget, name=name)
        hardness = state.hardness
        for tree, changes in ((retain, hardness.retain_change), (forget, hardness.forget_change)):
            for block, change in zip(BLOCKS, changes, strict=True):
                row, update = (np.asarray(x[block], np.float64) for x in (tree, updates))
                lengths = np.linalg.norm(retain[block]) + np.linalg.norm(forget[block]) + np.linalg.norm(update)
                assert abs(np.sum(row * update) + change) <= 1e-6 * np.linalg.norm(row) * lengths
        free_rises = hardness.total_retain_change if RULES[name].guaranteed == "forget" else -hardness.total_forget_change
        assert hardness.unavoidable == (free_rises > 0)


@pytest.mark.parametrize(
    ("name", "share", "expected"),
    [("ascent", 2.0, True), ("ascent", -2.0, False), ("gdiff", 2.0, True), ("gdiff", -2.0, False)]
    + [(name, 2.0, False) for name in ("descent", "pcgrad", "gru", "mgda", "nash")],
)
def test_without_requirement_unavoidable_means_that_this_step_raises_the_retain_loss(
    name: str, share: float, expected: bool
) -> None:
    forget = jax.tree.map(lambda x, y: (share * x + 0.1 * y).astype(np.float32), gradients(12), gradients(13))
    assert jitted(gradients(12), forget, name=name)[2].hardness.unavoidable == expected


@every_rule_compiled_anew
def test_solve_gives_one_coefficient_a_row(name: str) -> None:
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)
    residual = jnp.linalg.norm(vectors[0] - vectors[0] @ vectors[1] / (vectors[1] @ vectors[1]) * vectors[1])
    rule = RULES[name]
    required = jnp.full(1 if rule.many else (), 0.1)
    answer = compiled(rule.solve)(rules.Problem(vectors @ vectors.T, residual, required, jnp.asarray(1.0)))
    assert (answer.rows.shape, answer.residual.shape, answer.regime.shape) == ((2,), (), ())
    assert (answer.rows.dtype, answer.residual.dtype, answer.regime.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    assert int(answer.regime) in set(hamu_jax.Regime)
