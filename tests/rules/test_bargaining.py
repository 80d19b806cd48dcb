"""MGDA, CAGrad and the Nash bargain: solvers, optimality conditions, identities, and the edge cases of all these rules."""

from typing import Any

import numpy as np
import pytest
from gradient_pairs import COUNT, RULES, Pairs, mixed, quadratic_program, solve
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from two_gradient_problems import dot, norm

seeds = st.integers(0, 2**32 - 1)
DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32])
RADII = {"cagrad-0": 0.0, "cagrad": 0.5, "cagrad-2": 2.0}


def shortest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The shortest convex combination, from an interior-point solver."""
    rows = np.stack([first, second])
    simplex = np.vstack([np.ones(2), -np.eye(2)])
    return quadratic_program(rows @ rows.T, np.zeros(2), simplex, np.array([1.0, 0, 0]), equalities=1) @ rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mgda_against_a_convex_solver(seed: int) -> None:
    pairs = mixed(seed, like=(-1, 1))
    update = solve(pairs)["mgda"].update
    for i, (first, second) in enumerate(zip(*pairs.rows(), strict=True)):
        if i % 4 == 0:
            expected = shortest(first, second)
            # The solver stops at 1e-12 of the square: its root of the vector.
            assert norm(update[i] - expected) <= 2e-6 * max(norm(first), norm(second))
            assert norm(update[i]) <= norm(expected) + 1e-12 * max(norm(first), norm(second))


@DTYPES
def test_mgda_optimality(dtype: Any) -> None:
    """The shortest vector `u` of a convex set is the one with `<x, u> >= |u|^2` for all of the set: its two ends suffice."""
    eps = float(np.finfo(dtype).eps)
    for seed in range(6):
        pairs = mixed(seed, dtype)
        first, second = pairs.rows()
        update = solve(pairs)["mgda"].update.astype(np.float64)
        for row in (first, second):
            assert np.all(norm(update) ** 2 - dot(row, update) <= 8 * eps * norm(row) * norm(update))
        gap = first - second
        share = np.clip(dot(update - second, gap) / dot(gap, gap), 0.0, 1.0)[:, None]
        assert np.all(norm(update - share * first - (1 - share) * second) <= 4 * eps * (norm(first) + norm(second)))


def dual(first: np.ndarray, second: np.ndarray, c: float) -> float:
    """The smallest `<g_w, g_0> + c |g_0| |g_w|` over the weights `w`, by scipy: equation of the paper's algorithm 1."""
    mean = (first + second) / 2

    def value(weight: float) -> float:
        row = weight * first + (1 - weight) * second
        return float(row @ mean + c * norm(mean) * norm(row))

    inner = optimize.minimize_scalar(value, bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
    return min(value(0.0), value(1.0), float(inner.fun))


@pytest.mark.parametrize("name", RADII)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cagrad_reaches_the_dual(name: str, seed: int) -> None:
    """In the ball, and as good for the worse off as the dual's minimum, which no point of the ball exceeds."""
    pairs = mixed(seed, like=(-1, 1))
    first, second = pairs.rows()
    update = solve(pairs)[name].update
    mean = (first + second) / 2
    longest = norm(first) + norm(second)
    # The residual's own rounding is eps / sine of it; it matters where the step is mostly residual.
    assert np.all(norm(update - mean) <= RADII[name] * norm(mean) + 1e-15 * longest / pairs.sine())
    for i in range(0, COUNT, 4):
        reached = min(first[i] @ update[i], second[i] @ update[i])
        assert abs(reached - dual(first[i], second[i], RADII[name])) <= 1e-12 * longest[i] ** 2  # the weight's tolerance


@DTYPES
def test_cagrad_optimality(dtype: Any) -> None:
    """No point of the ball that was tried is better for the worse off; nor is the mean."""
    eps = float(np.finfo(dtype).eps)
    rng = np.random.default_rng(0)
    for seed in range(6):
        pairs = mixed(seed, dtype)
        first, second = pairs.rows()
        answers = solve(pairs)
        mean, longest, sine = (first + second) / 2, norm(first) + norm(second), np.maximum(pairs.sine(), 1e-4)
        for name, c in RADII.items():
            update = answers[name].update.astype(np.float64)
            # Beyond the mean's length nothing keeps the step from being mostly residual, whose rounding is eps / sine.
            slack = 4 * eps * longest / np.where(c > 1, sine, 1.0)
            assert np.all(norm(update - mean) <= c * norm(mean) + slack)
            reached = np.minimum(dot(first, update), dot(second, update))
            directions = rng.normal(size=(30, *mean.shape))
            directions = np.concatenate([directions, [0 * mean, first, second, update - mean]])
            lengths = np.maximum(norm(directions), 1e-300)[..., None]
            others = mean + c * norm(mean)[:, None] * directions / lengths
            best = np.max(np.minimum(dot(first, others), dot(second, others)), axis=0)
            assert np.all(best <= reached + 4 * eps * longest**2 * max(1.0, c))


def test_cagrad_without_radius_is_gdiff() -> None:
    answers = solve(mixed(7))
    np.testing.assert_array_equal(answers["cagrad-0"].update, answers["gdiff"].update)


def test_cagrad_with_a_large_radius_points_where_mgda_does() -> None:
    pairs = mixed(8, like=(-1, 1))
    answers = solve(pairs)
    wide, short = (answers[name].update / norm(answers[name].update)[:, None] for name in ("cagrad-1e6", "mgda"))
    assert np.all(norm(wide - short) <= 1e-4)  # the mean is 1e-6 of the ball, more of it at an angle of 1e-4


def coefficients(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`alpha` with `K alpha = 1/alpha`, by scipy: the minimum of the convex `alpha.K alpha / 2 - sum_i log alpha_i`."""
    gram = np.array([[first @ first, first @ second], [first @ second, second @ second]])

    def value(alpha: np.ndarray) -> float:
        return float(alpha @ gram @ alpha / 2 - np.sum(np.log(alpha))) if np.all(alpha > 0) else np.inf

    found = optimize.minimize(
        value,
        1 / np.sqrt(np.diag(gram)),
        jac=lambda alpha: gram @ alpha - 1 / alpha,
        hess=lambda alpha: gram + np.diag(1 / alpha**2),
        method="trust-exact",
        options={"gtol": 1e-8},
    )
    assert np.max(np.abs(found.x * (gram @ found.x) - 1)) <= 1e-6
    return found.x


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nash_solves_the_bargaining_equation(seed: int) -> None:
    pairs = mixed(seed, like=(-1, 1))
    first, second = pairs.rows()
    update = solve(pairs)["nash"].update
    for i in np.flatnonzero(pairs.cosine() > -0.99)[::8]:  # beyond, scipy's steps don't reach the optimum
        expected = coefficients(first[i], second[i]) @ np.stack([first[i], second[i]])
        assert norm(update[i] - expected) <= 1e-6
    spread = np.flatnonzero(pairs.sine() > 1e-2)  # from nearly parallel rows the coefficients can't be read off
    assert len(spread) > 100
    for i in spread:
        rows = np.stack([first[i], second[i]])
        alpha = np.linalg.lstsq(rows.T, update[i])[0]
        assert np.all(alpha > 0)
        np.testing.assert_allclose(alpha * (rows @ rows.T @ alpha), 1.0, rtol=1e-9)


@DTYPES
def test_nash_halves_the_angle(dtype: Any) -> None:
    """Both gain `|g| sqrt(1 + cosine)`, the step has the length `sqrt(2)`, and no other so long has a larger product."""
    eps, rng = float(np.finfo(dtype).eps), np.random.default_rng(0)
    for seed in range(6):
        pairs = mixed(seed, dtype)
        first, second = (row / norm(row)[:, None] for row in pairs.rows())
        update = solve(pairs)["nash"].update.astype(np.float64)
        gains = dot(first, update), dot(second, update)
        half = norm(first + second) / np.sqrt(2)  # sqrt(1 + cosine), which cancels for opposed rows
        for gain in gains:
            assert np.all(np.abs(gain - half) <= 8 * eps)
        assert np.all(np.abs(norm(update) - np.sqrt(2)) <= 4 * eps / np.maximum(pairs.sine(), 1e-4))
        others = update + 0.3 * rng.normal(size=(30, *update.shape))
        others *= np.sqrt(2) / norm(others)[..., None]
        both = np.minimum(dot(first, others), dot(second, others)) > 0
        product = dot(first, others) * dot(second, others)
        assert np.all(np.where(both, product, 0.0) <= gains[0] * gains[1] + 32 * eps)


def test_nash_and_mgda_agree_on_rows_of_one_length() -> None:
    answers = solve(mixed(9, like=(0, 0)))
    unit = answers["mgda"].update / norm(answers["mgda"].update)[:, None]
    assert np.all(norm(answers["nash"].update - np.sqrt(2) * unit) <= 1e-10)


@given(seed=seeds)
def test_the_order_of_the_rows_is_immaterial(seed: int) -> None:
    """Though it decides which residual is measured. The rounding of that is eps / sine of it."""
    pairs = mixed(seed)
    answers, exchanged = solve(pairs), solve(pairs.exchanged())
    length, sine = norm(pairs.retain) + norm(pairs.forget), np.maximum(pairs.sine(), 1e-4)
    for name in ("gdiff", "pcgrad", "mgda", "cagrad", "cagrad-2", "nash"):
        scale = np.sqrt(2) if name == "nash" else length
        error = norm(answers[name].update - exchanged[name].update)
        assert np.all(error <= 16 * np.finfo(np.float64).eps * scale / sine), name


@given(seed=seeds, exponent=st.integers(-40, 40))
def test_scaling(seed: int, exponent: int) -> None:
    """All updates follow the scale of their gradients, except the bargain, which knows directions only."""
    pairs = mixed(seed)
    factor = 2.0**exponent
    answers, scaled = solve(pairs), solve(Pairs(factor * pairs.retain, factor * pairs.forget))
    for name in set(RULES) - {"gru-capped"}:
        expected = answers[name].update * (1.0 if name == "nash" else factor)
        error = norm(scaled[name].update - expected)
        assert np.all(error <= 8 * np.finfo(np.float64).eps * norm(expected) / pairs.sine()), name


UNIT = np.array([0.6, 0.8])
# Lengths of the rows along one direction, and of the update; in units of the gradients, of 1 for the bargain.
EDGES = {
    "both zero": ((0, 0), {}),
    "zero forget": ((5, 0), {"descent": 5, "gdiff": 2.5, "pcgrad": 5, "cagrad": 2.5, "cagrad-2": 2.5, "nash": 1}),
    "zero retain": (
        (0, -5),
        {"ascent": -5, "gdiff": -2.5, "pcgrad": -5, "gru": -5, "cagrad": -2.5, "cagrad-2": -2.5, "nash": -1},
    ),
    "opposite": ((5, -10), {"descent": 5, "ascent": -10, "gdiff": -2.5, "cagrad": -1.25}),
    "opposite, first longer": ((20, -10), {"descent": 20, "ascent": -10, "gdiff": 5, "cagrad": 2.5}),
    "opposite, equally long": ((5, -5), {"descent": 5, "ascent": -5}),
    "parallel": (
        (5, 10),
        {"descent": 5, "ascent": 10, "gdiff": 7.5, "pcgrad": 15, "gru": 10, "mgda": 5}
        | {"cagrad": 11.25, "cagrad-2": 22.5, "nash": np.sqrt(2)},
    ),
    "equal": (
        (5, 5),
        {"descent": 5, "ascent": 5, "gdiff": 5, "pcgrad": 10, "gru": 5, "mgda": 5}
        | {"cagrad": 7.5, "cagrad-2": 15, "nash": np.sqrt(2)},
    ),
}


@DTYPES
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_edge_cases(dtype: Any, scale: float) -> None:
    lengths = np.array([rows for rows, _ in EDGES.values()])
    first, second = ((scale * lengths[:, i, None] * UNIT).astype(dtype) for i in (0, 1))
    answers = solve(Pairs(first, -second))
    for name in set(RULES) - {"gru-capped", "cagrad-0", "cagrad-1e6"}:
        size = 1.0 if name == "nash" else scale
        expected = size * np.array([updates.get(name, 0.0) for _, updates in EDGES.values()])[:, None] * UNIT
        got = answers[name].update
        np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(dtype).eps, err_msg=name)
        assert all(np.all(np.isfinite(x)) for x in answers[name])


def test_float32_at_extreme_scales() -> None:
    """Each gradient from 1e-15 to 1e15, apart from the other: nothing overflows, and float64 says the same."""
    pairs = mixed(2, like=(-15, 15))
    keep = np.abs(pairs.sine()) > 1e-2  # so that rounding to float32 does not change the problem
    narrow = Pairs(*(x[keep].astype(np.float32) for x in pairs))
    single, double = solve(narrow), solve(Pairs(*(x.astype(np.float64) for x in narrow)))
    for name in RULES:
        assert all(np.all(np.isfinite(x)) for x in single[name])
        summed = norm(narrow.retain) + norm(narrow.forget) if name.startswith("cagrad") else 0.0
        length = np.maximum(norm(double[name].update), summed)
        error = norm(single[name].update - double[name].update)
        assert np.all(error <= 8 * np.finfo(np.float32).eps * length / narrow.sine()), name


@DTYPES
def test_predicted_changes(dtype: Any) -> None:
    """What the state promises is what the update does, to rounding of the products that decide it."""
    for seed in range(6):
        pairs = mixed(seed, dtype)
        first, second = pairs.rows()
        for name, (update, retain_change, forget_change) in solve(pairs).items():
            # A sum of two long rows may be short: its product with a row is as exact as theirs.
            summed = norm(first) + norm(second) if name.startswith(("gdiff", "cagrad")) else 0.0
            for row, change in ((first, retain_change), (second, -forget_change)):
                error = np.abs(dot(row, update) + change)
                assert np.all(error <= 8 * np.finfo(dtype).eps * norm(row) * np.maximum(norm(update), summed)), name
