"""Fine-tuning, gradient ascent, gradient difference, PCGrad and GRU: the reference, a convex solver, the papers' formulas."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gradient_pairs import REQUIRE_NOTHING, RULES, Pairs, mixed, quadratic_program, solve
from hypothesis import given
from hypothesis import strategies as st
from reference_mlp import flatten, mlp, unflatten
from two_gradient_problems import PLAIN_COMPILE, dot, norm

import hamu_jax
from hamu_jax import rules

DATA = Path(__file__).parents[1] / "data"
seeds = st.integers(0, 2**32 - 1)


def relative(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest error of each row, relative to the row's largest number."""
    scale = np.max(np.abs(expected), axis=-1)
    return np.max(np.abs(got - expected), axis=-1) / np.where(scale > 0, scale, 1.0)


def average(retain: Any, forget: Any, clip_norm: float | None = None, blocks: str = "global") -> Any:
    """One step of gradient difference."""
    tx = hamu_jax.combine(rules.gdiff(), clip_norm=clip_norm, blocks=blocks)
    return tx.update(retain, tx.init(retain), forget_grads=forget)[0]


@pytest.mark.usefixtures("x64")
def test_gdiff_is_the_references() -> None:
    with np.load(DATA / "gdiff.npz") as file, np.load(DATA / "updates.npz") as updates:
        rows, expected = file["update"], file["gdiff"]
        gradients = [updates[name][rows][:, : expected.shape[1]] for name in ("retain_grad", "forget_grad")]
    got = jax.jit(jax.vmap(average), compiler_options=PLAIN_COMPILE)(*gradients)
    assert len(rows) == 150
    np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("x64")
def test_gdiff_runs_are_the_references() -> None:
    with np.load(DATA / "gdiff.npz") as file, np.load(DATA / "trajectories.npz") as batches:
        records, expected = json.loads(str(file["runs_json"])), dict(file)
        data = {key: batches[key] for key in batches.files if key.startswith("data/")}

    @functools.partial(jax.jit, compiler_options=PLAIN_COMPILE)
    def step(weights: jax.Array, retain: Any, forget: Any) -> Any:
        loss = hamu_jax.objectives.cross_entropy(mlp)
        params = unflatten(weights)
        losses, grads = hamu_jax.paired_value_and_grad(loss)(params, retain, forget)
        update = average(grads.retain, grads.forget, clip_norm=1.0, blocks="leaf")
        return flatten(optax.apply_updates(params, jax.tree.map(lambda x: -0.05 * x, update))), losses

    for i, record in enumerate(records):
        assert (record["lr"], record["max_grad_norm"], record["steps_done"]) == (0.05, 1.0, 10)
        weights = expected["weights"][i]
        ours = weights[0]
        for t in range(10):
            retain, forget = (
                {"x": data[f"{name}_x"][t], "label": data[f"{name}_y"][t].astype(np.int32)}
                for name in (f"data/{record['data']}/{role}" for role in ("retain", "forget"))
            )
            ours, losses = step(ours, retain, forget)
            assert relative(np.asarray(ours), weights[t + 1]) <= 1e-12
            np.testing.assert_allclose(losses.retain, expected["retain_loss"][i, t], rtol=1e-12)
            np.testing.assert_allclose(losses.forget, expected["forget_loss"][i, t], rtol=1e-12)


def test_descent_ascent_and_their_mean() -> None:
    pairs = mixed(0)
    answers = solve(pairs)
    np.testing.assert_array_equal(answers["descent"].update, pairs.retain)
    np.testing.assert_array_equal(answers["ascent"].update, -pairs.forget)
    np.testing.assert_array_equal(answers["gdiff"].update, (pairs.retain - pairs.forget) / 2)


def test_gdiff_of_one_objective_is_half_of_it() -> None:
    pairs = mixed(1)
    zero = np.zeros_like(pairs.retain)
    alone, other = solve(Pairs(pairs.retain, zero)), solve(Pairs(zero, pairs.forget))
    np.testing.assert_array_equal(2 * alone["gdiff"].update, alone["descent"].update)
    np.testing.assert_array_equal(2 * other["gdiff"].update, other["ascent"].update)


def algorithm_1(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Yu et al. 2020, word by word, with more digits than anything here."""
    rows = [x.astype(np.longdouble) for x in (first, second)]
    total = np.zeros_like(rows[0])
    for i in range(2):
        own, other = rows[i], rows[1 - i]
        inner = np.sum(own * other, axis=-1)
        step = own - (inner / np.sum(other * other, axis=-1))[:, None] * other
        total = total + np.where((inner < 0)[:, None], step, own)
    return total.astype(np.float64)


@given(seed=seeds)
def test_pcgrad_is_algorithm_1(seed: int) -> None:
    pairs = mixed(seed)
    expected = algorithm_1(*pairs.rows())
    # The residual's own rounding is eps of the gradient, and the gradient is at most 1e4 times as long.
    assert np.all(norm(solve(pairs)["pcgrad"].update - expected) <= 1e-11 * norm(expected))


@given(seed=seeds)
def test_pcgrad_without_conflict_is_twice_gdiff(seed: int) -> None:
    pairs = mixed(seed)
    answers = solve(pairs)
    agree = pairs.cosine() > 0
    assert 0 < agree.sum() < len(agree)
    np.testing.assert_array_equal(answers["pcgrad"].update[agree], 2 * answers["gdiff"].update[agree])
    assert np.all(norm(answers["pcgrad"].update) > 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pcgrad_leaves_no_conflict(dtype: Any) -> None:
    for seed in range(6):
        pairs = mixed(seed, dtype)
        update = solve(pairs)["pcgrad"].update
        for row in pairs.rows():
            assert np.all(dot(row, update) >= -4 * np.finfo(dtype).eps * norm(row) * norm(update))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gru_against_a_convex_solver(seed: int) -> None:
    pairs = mixed(seed, like=(-1, 1))
    update = solve(pairs)["gru"].update
    conflict = dot(pairs.retain, pairs.forget) > 0
    assert 20 < conflict[:60].sum() < 60
    for i in range(60):
        target, constraint = -pairs.forget[i] / norm(pairs.forget[i]), pairs.retain[i] / norm(pairs.retain[i])
        expected = quadratic_program(np.eye(len(target)), -target, -constraint[None], np.zeros(1)) * norm(pairs.forget[i])
        assert norm(update[i] - expected) <= 1e-8 * norm(pairs.forget[i])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gru_optimality(dtype: Any) -> None:
    """`min |u + g_f|^2`, `<g_r, u> >= 0`: feasible; `u + g_f` is a multiple `>= 0` of `g_r`, and 0 unless `<g_r, u> = 0`."""
    eps = float(np.finfo(dtype).eps)
    for seed in range(6):
        pairs = mixed(seed, dtype)
        retain, target = pairs.rows()
        update = solve(pairs)["gru"].update.astype(np.float64)
        assert np.all(dot(retain, update) >= -4 * eps * norm(retain) * norm(update))
        unit = retain / norm(retain)[:, None]
        moved = update - target
        multiplier = dot(moved, unit)
        assert np.all(multiplier >= -eps * norm(target))
        assert np.all(norm(moved - multiplier[:, None] * unit) <= 4 * eps * norm(target))
        assert np.all(multiplier * dot(unit, update) <= 4 * eps * norm(target) * norm(update))


def test_gru_without_conflict_is_ascent() -> None:
    pairs = mixed(4)
    answers = solve(pairs)
    agree = dot(pairs.retain, pairs.forget) <= 0
    np.testing.assert_array_equal(answers["gru"].update[agree], answers["ascent"].update[agree])
    assert np.all(norm(answers["gru"].update[~agree]) < norm(answers["ascent"].update[~agree]))


@given(seed=seeds)
def test_gru_cap(seed: int) -> None:
    answers = solve(mixed(seed))
    free, capped = answers["gru"].update, answers["gru-capped"].update
    scale = np.minimum(1.0, 0.5 / norm(free))
    assert 0 < np.sum(scale < 1) < len(scale)
    # The length is that of the residual before it was measured to rounding, which at 1e-4 radians is 1e-12 of it.
    np.testing.assert_allclose(capped, scale[:, None] * free, rtol=1e-11, atol=0)


def test_gru_caps_every_block() -> None:
    retain, forget = ({"a": jnp.array(x), "b": jnp.array(y)} for x, y in (((1.0, 0.0), (0.0, 1.0)), ((0.0, 3.0), (4.0, 0.0))))
    for blocks, expected in (("leaf", ((0.0, -1.0), (-1.0, 0.0))), ("global", ((0.0, -0.6), (-0.8, 0.0)))):
        tx = hamu_jax.combine(rules.gru(max_norm=1.0), blocks=blocks)
        update, _ = tx.update(retain, tx.init(retain), forget_grads=forget)
        np.testing.assert_allclose(np.stack([update["a"], update["b"]]), expected, rtol=1e-6)


@pytest.mark.parametrize("name", REQUIRE_NOTHING)
def test_budget_and_radius_do_not_change_the_step(name: str) -> None:
    def solve_with(number: float) -> rules.Combination:
        gram = jnp.array([[4.0, -1.0], [-1.0, 2.0]])
        return RULES[name].solve(rules.Problem(gram, jnp.sqrt(jnp.array(3.5)), jnp.array(number), jnp.array(number)))

    plain, asked = solve_with(0.0), solve_with(9.0)
    np.testing.assert_array_equal(plain.rows, asked.rows)
    assert plain.residual == asked.residual
    assert plain.regime == asked.regime == hamu_jax.Regime.UNCONSTRAINED


def test_equal_options_are_the_same_rule() -> None:
    assert rules.gru() is rules.gru(None) is rules.gru(max_norm=None)
    assert rules.gru(1) is rules.gru(max_norm=1.0)
    assert rules.cagrad() is rules.cagrad(0.5) is rules.cagrad(c=0.5)
    assert rules.hamu_q() is rules.hamu_q(infeasible="scale")
    assert len({*RULES.values()}) == len(RULES)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "1", True, np.ones(2)])
def test_max_norm_is_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=r"max_norm: got .*, expected a positive number"):
        rules.gru(value)


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan"), "1", None])
def test_c_is_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=r"c: got .*, expected a number of at least 0"):
        rules.cagrad(value)


def test_the_weight_of_gdiff_is_the_share_of_the_forget_gradient() -> None:
    retain, forget = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
    update = solve_weighted(0.25, retain, forget)
    np.testing.assert_allclose(update, 0.75 * retain - 0.25 * forget)
    for weight, rule in ((0.0, rules.descent()), (1.0, rules.ascent())):
        tx = hamu_jax.combine(rule, blocks="global")
        expected = tx.update(retain, tx.init(retain), forget_grads=forget)[0]
        np.testing.assert_array_equal(solve_weighted(weight, retain, forget), expected)
    assert rules.gdiff() == rules.gdiff(0.5)


def solve_weighted(weight: float, retain: jax.Array, forget: jax.Array) -> jax.Array:
    """A step of weighted gradient difference."""
    tx = hamu_jax.combine(rules.gdiff(weight), blocks="global")
    return tx.update(retain, tx.init(retain), forget_grads=forget)[0]


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_is_a_share(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight: got .*, expected a number (from 0 to 1|of at least 0)"):
        rules.gdiff(weight)
