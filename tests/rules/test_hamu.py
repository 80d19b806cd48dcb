"""The closed form: certificates of optimality, a convex solver, invariances, and the documented edge cases."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from two_gradient_problems import Problems, angles, dot, duality_gap, norm, radius_of, sample, solve

from hamu_jax import Regime, rules

SIZES = (2, 3, 8, 200)
VARIANTS = ("q", "u")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from(SIZES)
variants = st.sampled_from(VARIANTS)


def as_q(problems: Problems, variant: str) -> Problems:
    """The problem in HAMU-Q's form: <g_r, d> is minimised, <g_f, d> >= q."""
    return problems if variant == "q" else problems.exchanged()


def shortfall(problems: Problems, directions: np.ndarray) -> np.ndarray:
    """How much of the requirement is missing, in units of r |g_f|."""
    return (problems.improvement - dot(problems.forget, directions)) / (radius_of(problems) * norm(problems.forget))


def socp(objective: np.ndarray, constraint: np.ndarray, required: float, radius: float) -> np.ndarray | None:
    """Minimises `objective.d` with `constraint.d >= required`, `|d| <= radius`; None if infeasible."""
    n = len(objective)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    rows = np.vstack([-constraint, np.zeros(n), -np.eye(n)])
    limits = np.concatenate([[-required, radius], np.zeros(n)])
    cones = [clarabel.NonnegativeConeT(1), clarabel.SecondOrderConeT(n + 1)]
    empty = sparse.csc_matrix((n, n))
    solution = clarabel.DefaultSolver(empty, objective, sparse.csc_matrix(rows), limits, cones, settings).solve()
    if solution.status == clarabel.SolverStatus.PrimalInfeasible:
        return None
    assert solution.status == clarabel.SolverStatus.Solved
    return np.array(solution.x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [2, 3, 8, 40])
def test_against_a_convex_solver(variant: str, size: int) -> None:
    problems = sample(size, 60, size, scales=(-1, 1), variant=variant)
    directions, hardness = solve(problems, variant)
    regimes = []
    for i in range(60):
        retain, forget, q, r = (x[i] for x in problems)
        # HAMU-U as it is stated: maximise <g_f, d> with <g_r, d> <= -u.
        objective, constraint = (retain, forget) if variant == "q" else (-forget, -retain)
        expected = socp(objective / norm(objective), constraint / norm(constraint), q / (r * norm(constraint)), 1.0)
        regimes.append(hardness.regime[i, 0])
        assert (expected is None) == (regimes[-1] == Regime.INFEASIBLE)
        if expected is not None:
            value = objective @ directions[i] / (r * norm(objective))
            assert abs(value - expected @ objective / norm(objective)) <= 3e-7  # 1e-8 of the constraint times its multiplier
            # The solver stops at 1e-8; moving along the ball by its square root changes the value by no more.
            assert norm(directions[i] / r - expected) <= 2e-4
    assert {Regime.DIRECT, Regime.RECTIFIED, Regime.INFEASIBLE} <= set(regimes)


@given(seed=seeds, size=sizes, variant=variants)
def test_constraint_ball_and_optimality(seed: int, size: int, variant: str) -> None:
    given_problems = sample(seed, 50, size, variant=variant, infeasible=False)
    directions, hardness = solve(given_problems, variant)
    problems = as_q(given_problems, variant)
    radius = radius_of(problems)
    assert np.all(hardness.feasible)
    assert np.all(shortfall(problems, directions) <= 1e-14)
    # The residual's own rounding, eps |g_r|, is a part eps / angle of it; angles go down to 1e-4.
    assert np.all(norm(directions) <= radius * (1 + 1e-12))
    assert np.all(duality_gap(problems, directions) <= 1e-13 * radius * norm(problems.retain))


@given(seed=seeds, size=sizes)
def test_hamu_u_by_its_own_statement(seed: int, size: int) -> None:
    """`max <g_f, d>` with `<g_r, d> <= -u`, `|d| <= r`; for every m >= 0 the maximum is at most `r |g_f - m g_r| - m u`."""
    problems = sample(seed, 50, size, variant="u", infeasible=False)
    retain, forget, required, radius = problems
    d, _ = solve(problems, "u")
    assert np.all(dot(retain, d) <= -required + 1e-14 * radius * norm(retain))
    assert np.all(norm(d) <= radius * (1 + 1e-12))
    # Upper bounds over a grid around the multiplier at which both terms balance are all above, the best one touches.
    unit = d / np.maximum(norm(d), 1e-300)[:, None]
    forget_off, retain_off = (x - dot(x, unit)[:, None] * unit for x in (forget, retain))
    best = np.maximum(dot(forget_off, retain_off) / np.maximum(dot(retain_off, retain_off), 1e-300), 0.0)
    bounds = [radius * norm(forget - m[:, None] * retain) - m * required for m in (best, 0 * best, 0.5 * best, 2 * best)]
    value, scale = dot(forget, d), radius * norm(forget)
    assert np.all(np.min(bounds, axis=0) >= value - 1e-13 * scale)
    assert np.all(np.minimum(bounds[0], bounds[1]) <= value + 1e-13 * scale)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [2, 3, 200])
def test_float32_at_all_angles_and_scales(variant: str, size: int) -> None:
    """Angles from 1e-4 to 180 degrees less that, norms from 1e-8 to 1e4."""
    given_problems = sample(size, 3000, size, variant=variant, infeasible=False, dtype=np.float32)
    directions, hardness = solve(given_problems, variant, as_users_compile=True)
    assert directions.dtype == np.float32
    problems = as_q(given_problems, variant)
    radius, feasible = radius_of(problems), hardness.feasible[:, 0]
    assert np.all(feasible)
    assert np.all(shortfall(problems, directions) <= 1e-6)
    # Relative rounding of a residual that is `sine` times the gradient; a compiler may round it differently in each pass.
    sine = np.maximum(np.sin(np.radians(hardness.angle[:, 0].astype(np.float64))), 1e-4)
    assert np.all(norm(directions) <= radius * (1 + 1e-6 + np.finfo(np.float32).eps / sine))
    # Rounding of d alone is 6e-8 sqrt(n) of |d|, and so of r |g_r|.
    assert np.all(duality_gap(problems, directions) <= 1e-5 * radius * norm(problems.retain))


@pytest.mark.parametrize("variant", VARIANTS)
def test_nearly_parallel_float32(variant: str) -> None:
    """The promise and the predicted angle survive where the Gram matrix alone has lost every digit."""
    angle = np.full(3000, 1e-4)
    given_problems = sample(3, 3000, 200, angle=angle, variant=variant, infeasible=False, dtype=np.float32)
    directions, hardness = solve(given_problems, variant, as_users_compile=True)
    problems = as_q(given_problems, variant)
    assert np.all(shortfall(problems, directions) <= 1e-6)
    exact = problems.retain.astype(np.float64)
    along = (dot(exact, problems.forget) / dot(problems.forget, problems.forget))[:, None] * problems.forget
    true_angle = np.degrees(np.arcsin(norm(exact - along) / norm(exact)))
    # Float32 gradients at 1e-4 radians: the relative rounding of the residual is 6e-8 / 1e-4.
    np.testing.assert_allclose(hardness.angle[:, 0], true_angle, rtol=1e-3)
    assert np.mean(hardness.regime[:, 0] == Regime.RECTIFIED) > 0.9


@given(seed=seeds, size=sizes, variant=variants, exponents=st.tuples(*[st.integers(-6, 6)] * 3))
def test_scaling(seed: int, size: int, variant: str, exponents: tuple[int, int, int]) -> None:
    """Gradients scaled with what is asked of them leave `d`; radius and requirement scaled together scale it."""
    problems = sample(seed, 50, size, scales=(-1, 1), variant=variant)
    retain, forget, radius = (10.0**e for e in exponents)
    asked = forget if variant == "q" else retain
    scaled = Problems(
        retain * problems.retain,
        forget * problems.forget,
        asked * radius * problems.improvement,
        radius * problems.radius,
    )
    (d, before), (scaled_d, after) = solve(problems, variant), solve(scaled, variant)
    np.testing.assert_array_equal(before.regime, after.regime)
    # At 0.999 of what is feasible and angles of 1e-4 rounding is amplified by 1e4.
    assert np.all(norm(scaled_d / radius - d) <= 1e-10 * problems.radius)


@given(seed=seeds, size=sizes)
def test_hamu_u_is_hamu_q_exchanged(seed: int, size: int) -> None:
    problems = sample(seed, 50, size, variant="u")
    np.testing.assert_array_equal(solve(problems, "u")[0], solve(problems.exchanged(), "q")[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_learning_rate_radius(variant: str) -> None:
    problems = sample(4, 50, 8, variant=variant)
    free = norm(problems.retain if variant == "q" else problems.forget)
    default, measured = solve(problems._replace(radius=None), variant)
    explicit, _ = solve(problems._replace(radius=free), variant)
    np.testing.assert_allclose(measured.radius[:, 0], free, rtol=1e-14)
    np.testing.assert_allclose(default, explicit, rtol=1e-9)


def test_without_requirement_the_step_never_ascends_on_retain() -> None:
    problems = sample(5, 300, 8)
    problems = problems._replace(improvement=np.zeros(300), radius=None)
    directions, hardness = solve(problems)
    easy = dot(problems.retain, problems.forget) <= 0
    np.testing.assert_array_equal(hardness.regime[easy, 0], Regime.DIRECT)
    np.testing.assert_allclose(directions[easy], -problems.retain[easy], rtol=1e-12)
    assert np.all(dot(problems.retain, directions) <= 1e-12 * norm(problems.retain) ** 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_infeasible_fallbacks(variant: str) -> None:
    problems = sample(6, 50, 3, variant=variant)
    guaranteed = problems.forget if variant == "q" else -problems.retain
    impossible = problems.improvement > problems.radius * norm(guaranteed)
    unit = guaranteed / norm(guaranteed)[:, None]
    expected = {
        "scale": problems.radius[:, None] * unit,
        "ascend": (problems.improvement / norm(guaranteed))[:, None] * unit,
        "skip": np.zeros_like(unit),
    }
    assert 5 < impossible.sum() < 45
    answers = {name: solve(problems, variant, name) for name in expected}
    for name, (directions, hardness) in answers.items():
        np.testing.assert_array_equal(hardness.feasible[:, 0], ~impossible)
        np.testing.assert_array_equal(hardness.regime[:, 0] == Regime.INFEASIBLE, impossible)
        np.testing.assert_allclose(directions[impossible], expected[name][impossible], rtol=1e-13, atol=0)
        np.testing.assert_array_equal(directions[~impossible], answers["scale"][0][~impossible])


def rows(*vectors: tuple[float, ...]) -> np.ndarray:
    """Float32 gradients of the edge cases."""
    return np.array(vectors, np.float32)


@pytest.mark.parametrize("infeasible", ["scale", "ascend", "skip"])
def test_zero_forget_gradient(infeasible: str) -> None:
    retain, forget = rows((3, 4), (3, 4), (3, 4)), rows((0, 0), (0, 0), (0, 0))
    for radius in (None, np.full(3, 10.0, np.float32)):
        directions, hardness = solve(Problems(retain, forget, np.array([0, 1, 9], np.float32), radius), "q", infeasible)
        length = 5.0 if radius is None else 10.0
        np.testing.assert_array_equal(hardness.regime[:, 0], [Regime.DIRECT, Regime.INFEASIBLE, Regime.INFEASIBLE])
        np.testing.assert_allclose(directions, [(-0.6 * length, -0.8 * length), (0, 0), (0, 0)], rtol=1e-6)
        np.testing.assert_array_equal(hardness.cosine, 0)
        assert all(np.all(np.isfinite(x)) for x in hardness)


@pytest.mark.parametrize("infeasible", ["scale", "ascend", "skip"])
def test_zero_retain_gradient(infeasible: str) -> None:
    """There is nothing to descend on: the shortest step that meets the requirement. Its own norm leaves no room at all."""
    retain, forget = rows((0, 0), (0, 0), (0, 0)), rows((3, 4), (3, 4), (3, 4))
    required = np.array([0, 5, 50], np.float32)
    directions, hardness = solve(Problems(retain, forget, required, np.full(3, 2.0, np.float32)), "q", infeasible)
    lengths = [0, 1, {"scale": 2, "ascend": 10, "skip": 0}[infeasible]]
    np.testing.assert_allclose(directions, np.outer(lengths, (0.6, 0.8)), rtol=1e-6)
    np.testing.assert_array_equal(hardness.feasible[:, 0], [True, True, False])
    directions, hardness = solve(Problems(retain, forget, required, None), "q", infeasible)
    lengths = [0, *({"scale": 0, "ascend": length, "skip": 0}[infeasible] for length in (1, 10))]
    np.testing.assert_allclose(directions, np.outer(lengths, (0.6, 0.8)), rtol=1e-6)
    np.testing.assert_array_equal(hardness.feasible[:, 0], [True, False, False])
    assert all(np.all(np.isfinite(x)) for x in hardness)


def test_both_gradients_zero() -> None:
    zero = np.zeros((3, 2), np.float32)
    directions, hardness = solve(Problems(zero, zero, np.array([0, 1, 2], np.float32), None))
    np.testing.assert_array_equal(directions, 0)
    np.testing.assert_array_equal(hardness.feasible[:, 0], [True, False, False])
    assert all(np.all(np.isfinite(x)) for x in hardness)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16], ids=["f32", "bf16", "f16"])
def test_parallel_gradients_never_follow_rounding_noise(dtype: type) -> None:
    """400 pairs `g_f = c g_r` rounded to the dtype, c of both signs; of 2 to 200 numbers, the rest zero."""
    rng = np.random.default_rng(7)
    used = np.arange(200) < np.repeat(SIZES, 100)[:, None]
    retain = np.where(used, rng.normal(size=(400, 200)), 0.0).astype(dtype)
    factor = rng.choice([-1, 1], 400) * 2.0 ** rng.uniform(-3, 3, 400)
    forget = (factor[:, None] * retain.astype(np.float64)).astype(dtype)
    required = (0.5 * norm(retain) * norm(forget)).astype(np.float32)
    directions, hardness = solve(Problems(retain, forget, required, None), as_users_compile=True)
    np.testing.assert_array_equal(hardness.regime[:, 0], np.where(factor > 0, Regime.COLLINEAR, Regime.DIRECT))
    eps = float(jnp.finfo(dtype).eps)  # of the update, which has the gradient's dtype
    assert np.all(shortfall(Problems(retain, forget, required, norm(retain)), directions) <= 2 * eps)


def test_thresholds_are_where_the_regimes_change() -> None:
    """`kappa_1` and `kappa_2` as bisected from the solution's behaviour: turn the retain gradient, nothing else."""
    turns = np.linspace(0.01, np.pi - 0.01, 2001)
    retain = np.stack([np.cos(turns), np.sin(turns)], axis=1) * 3
    forget = np.tile([2.0, 0.0], (len(turns), 1))
    problems = Problems(retain, forget, np.full(len(turns), 0.7), np.full(len(turns), 0.5))
    _, hardness = solve(problems)
    kappa, kappa_1, kappa_2 = hardness.kappa[:, 0], hardness.kappa_1[:, 0], hardness.kappa_2[:, 0]
    np.testing.assert_allclose(kappa_1, -0.7 * 3 / 0.5, rtol=1e-14)
    np.testing.assert_allclose(kappa_2, 3 * np.sqrt(4 - 0.7**2 / 0.5**2), rtol=1e-14)
    np.testing.assert_array_equal(hardness.regime[:, 0] == Regime.DIRECT, kappa <= kappa_1)
    np.testing.assert_array_equal(hardness.retain_change[:, 0] > 0, kappa > kappa_2)
    np.testing.assert_array_equal(hardness.unavoidable, kappa > kappa_2)
    assert 0 < hardness.unavoidable.sum() < len(turns)


def test_a_rule_is_one_block_of_numbers() -> None:
    """The interface of section 2.7: a Gram matrix in, coefficients out; checked on vectors that are small enough to see."""
    rows_ = np.array([(1.0, 1.0), (-2.0, 0.0)])  # g_r and -g_f
    problem = rules.Problem(jnp.asarray(rows_ @ rows_.T), jnp.asarray(1.0), jnp.asarray(1.2), jnp.asarray(1.0))
    answer = rules.hamu_q().solve(jax.tree.map(lambda x: x.astype(jnp.float32), problem))
    step = np.asarray(answer.rows) @ rows_ + float(answer.residual) * np.array([0.0, 1.0])
    np.testing.assert_allclose(-step, (0.6, -0.8), rtol=1e-6)
    assert answer.regime == Regime.RECTIFIED


def test_equal_options_are_the_same_rule() -> None:
    assert rules.hamu_q("skip") is rules.hamu_q("skip")
    assert rules.hamu_q() != rules.hamu_u()
    assert (rules.hamu_q().guaranteed, rules.hamu_u().guaranteed) == ("forget", "retain")


@pytest.mark.parametrize("rule", [rules.hamu_q, rules.hamu_u])
def test_unknown_fallback(rule: type) -> None:
    with pytest.raises(ValueError, match=r"infeasible: got 'clip', expected one of scale, ascend, skip"):
        rule("clip")


def test_sampler_covers_the_angles() -> None:
    got = angles(np.random.default_rng(0), 1000)
    assert got.min() < 1e-3
    assert got.max() > np.pi - 1e-3
