"""The projected solve against Clarabel, against weak duality, and against the closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cone_problems import KINDS, LARGE, SMALL, Case, Errors, cases, errors, in_turn, run, unit

from hamu_jax import rules
from hamu_jax.rules._projected.solve import Solution

FLOAT64 = 1e-8
FLOAT32 = 1e-4


def table(size: int, dtype: Any, resolution: float, kinds: tuple[str, ...] = KINDS) -> tuple[np.ndarray, list[Case]]:
    """Errors of all problems, one per row."""
    problems = cases(size, kinds)
    solutions = run(problems, size, dtype)
    return np.array([errors(p, s, resolution) for p, s in zip(problems, solutions, strict=True)]), problems


def check(found: np.ndarray, problems: list[Case], limit: Errors) -> None:
    """Names the worst problem of each kind of error."""
    for column, (name, bound) in enumerate(limit._asdict().items()):
        worst = int(np.argmax(found[:, column]))
        problem = problems[worst]
        shape = problem.rows.shape
        assert found[worst, column] <= bound, f"{name} {found[worst, column]:.1e} > {bound:.0e}: {problem.kind} {shape}"


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.usefixtures("x64")
def test_float64_agrees_with_clarabel(size: int) -> None:
    found, problems = table(size, np.float64, resolution=1e-6)
    # Clarabel's own fractions are good to about 1e-8.
    check(found, problems, Errors(1e-8, FLOAT64, 1e-10, 1e-9, 1e-9, FLOAT64))


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_float32_agrees_with_clarabel(size: int) -> None:
    found, problems = table(size, np.float32, resolution=1e-3)
    check(found, problems, Errors(*(FLOAT32,) * 6))


@pytest.mark.slow
def test_float32_does_not_depend_on_the_order_of_summation() -> None:
    """Nine rows in two dimensions, two of them one degree from opposite, at a vertex inside the ball: multipliers of 44.

    The polish once lost row 0 in a fifth of these, whose slack the interior point had left above its multiplier.
    """
    problem = next(p for p in cases(SMALL, KINDS) if p.kind == "low rank" and p.rows.shape == (9, 2))
    exact = problem.rows.astype(np.float32).astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    noise = np.random.default_rng(0).uniform(-1, 1, (100, 9, 9)) * np.finfo(np.float32).eps / 2
    grams = np.zeros((100, SMALL + 1, SMALL + 1), np.float32)
    grams[:, :9, :9] = exact @ exact.T + (noise + np.swapaxes(noise, 1, 2)) / 2 * np.outer(norms, norms)
    required = np.pad(problem.required, (0, SMALL - 8)).astype(np.float32)
    solutions = in_turn(jnp.asarray(grams), jnp.asarray(np.tile(required, (100, 1))), jnp.full(100, np.float32(problem.radius)))
    for i in range(100):
        found = errors(problem, jax.tree.map(lambda x, i=i: np.asarray(x[i]), solutions), resolution=1e-3)
        assert max(found) <= FLOAT32, found


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_float64_where_many_rows_meet() -> None:
    found, problems = table(SMALL, np.float64, 1e-6, ("meeting",) * 3)
    # Which of the rows carry weight is then hard to tell: multipliers stay at 1e-6 or so in a few problems.
    check(found, problems, Errors(FLOAT64, FLOAT64, 1e-10, 1e-8, 1e-6, 1e-5))


@pytest.mark.slow
def test_float32_where_many_rows_meet() -> None:
    found, problems = table(SMALL, np.float32, 1e-3, ("meeting",) * 3)
    check(found, problems, Errors(FLOAT32, FLOAT32, FLOAT32, 2e-3, 2e-3, 2e-3))
    assert np.mean(found[:, 3] <= FLOAT32) >= 0.9


def single(rows: Any, required: Any, radius: float = 1.0) -> tuple[Solution, np.ndarray]:
    """One small problem through the shape that all fast tests share: the solution and the step."""
    problem = Case("", np.asarray(rows, np.float64), np.asarray(required, np.float64), radius, 0.0, 0.0)
    solution = run([problem], 6, np.float64)[0]
    return solution, solution.coefficients[: problem.rows.shape[0]] @ problem.rows


def random_rows(seed: int, m: int = 6, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """A feasible problem that is not direct."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((m + 1, n))
    rows[1:] += 0.5 - 0.5 * rows[0]
    return rows, 0.1 * np.linalg.norm(rows[1:], axis=1)


def hamu_q_step(rows: np.ndarray, required: float, radius: float) -> np.ndarray:
    """The closed form's step."""
    residual = rows[0] - rows[1] * (rows[0] @ rows[1]) / max(rows[1] @ rows[1], 1e-300)
    gram, length = jnp.asarray(rows @ rows.T), jnp.asarray(np.linalg.norm(residual))
    combination = rules.hamu_q().solve(rules.Problem(gram, length, jnp.asarray(required), jnp.asarray(radius)))
    return np.asarray(combination.rows) @ rows + float(combination.residual) * residual


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("x64")
def test_one_requirement_is_the_closed_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2, 4)) * 10.0 ** rng.uniform(-3, 3, (2, 1))
    radius = float(np.linalg.norm(rows[0]))
    required = float(rng.choice([0.0, 0.2, 0.8, 1.3])) * radius * np.linalg.norm(rows[1])
    solution, step = single(rows, [required], radius)
    np.testing.assert_allclose(step, hamu_q_step(rows, required, radius), atol=1e-9 * radius)
    assert solution.fraction == pytest.approx(min(1.0, radius * np.linalg.norm(rows[1]) / max(required, 1e-300)), abs=1e-9)


@pytest.mark.parametrize("change", ["permute", "scale rows", "scale radius", "duplicate"])
@pytest.mark.usefixtures("x64")
def test_equal_problems_have_equal_steps(change: str) -> None:
    rows, required = random_rows(3, m=4)
    order, scales = np.array([2, 0, 3, 1]), np.array([1e-8, 1e4, 1.0, 1e-3])
    variants: dict[str, Callable[[], tuple[np.ndarray, np.ndarray, float]]] = {
        "permute": lambda: (rows[np.concatenate([[0], 1 + order])], required[order], 1.0),
        "scale rows": lambda: (rows * np.concatenate([[1e3], scales])[:, None], required * scales, 1.0),
        "scale radius": lambda: (rows, 1e-5 * required, 1e-5),
        "duplicate": lambda: (rows[[0, 1, 2, 3, 4, 4, 2]], required[[0, 1, 2, 3, 3, 1]], 1.0),
    }
    changed, needed, radius = variants[change]()
    (_, expected), (solution, step) = single(rows, required), single(changed, needed, radius)
    assert solution.kkt <= FLOAT64
    np.testing.assert_allclose(step / radius, expected, atol=1e-9)


EDGES = {
    "a zero row that requires something": ([[1, 0], [0, 0]], [1.0], 0.0, [0, 0]),
    "a zero row that requires nothing": ([[1, 0], [0, 0]], [0.0], 1.0, [1, 0]),
    "opposite rows": ([[1, 0], [0, 1], [0, -1]], [0.1, 0.1], 0.0, [0, 0]),
    "opposite rows that require nothing": ([[1, 1], [0, 1], [0, -1]], [0.0, 0.0], 1.0, [1, 0]),
    "no retain gradient": ([[0, 0], [0, 2]], [0.5], 1.0, [0, 0.25]),
    "nothing at all": ([[0, 0], [0, 0]], [0.0], 1.0, [0, 0]),
    "collinear": ([[-1, 0], [2, 0]], [1.0], 1.0, [0.5, 0]),
    "infeasible alone": ([[1, 0], [0, 1]], [4.0], 0.25, [0, 1]),
    "infeasible together": ([[1, 0, 1], [1, 0, 0], [0, 1, 0]], [1.0, 1.0], np.sqrt(0.5), [np.sqrt(0.5), np.sqrt(0.5), 0]),
    "protected": ([[1, 0], [-1, 0]], [-0.25], 1.0, [0.25, 0]),
    "a vertex": ([[1, 1], [-1, 0], [0, -1]], [-0.1, -0.2], 1.0, [0.1, 0.2]),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.usefixtures("x64")
def test_edge_cases(name: str) -> None:
    rows, required, fraction, expected = EDGES[name]
    solution, step = single(rows, required)
    assert solution.fraction == pytest.approx(fraction, abs=1e-9)
    np.testing.assert_allclose(step, expected, atol=1e-8)
    assert solution.kkt <= FLOAT64


@pytest.mark.usefixtures("x64")
def test_no_radius_means_no_step() -> None:
    rows, required = random_rows(0)
    solution, step = single(rows, required, 0.0)
    assert solution.fraction == 0.0
    np.testing.assert_array_equal(step, 0.0)


@pytest.mark.usefixtures("x64")
def test_multipliers_are_sensitivities() -> None:
    rows, required = random_rows(1)
    solution, step = single(rows, required)
    more = required.copy()
    more[np.argmax(solution.multipliers)] += 1e-6
    _, moved = single(rows, more)
    # A difference quotient: good to its own step.
    assert rows[0] @ (moved - step) / 1e-6 == pytest.approx(-solution.multipliers.max(), rel=1e-3)


@pytest.mark.usefixtures("x64")
def test_non_finite_input_ends() -> None:
    rows, required = random_rows(2)
    rows[3] = np.nan
    solution, _ = single(rows, required)
    assert solution.iterations <= 150
    assert not solution.kkt <= FLOAT64


@pytest.mark.slow
def test_a_thousand_requests() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1025, 4000))
    rows[1:] += 0.3 * rng.standard_normal(4000) + 0.02 * rows[0]
    required = 0.1 * np.linalg.norm(rows[1:], axis=1)
    problem = Case("large", rows, required, 1.0, np.inf, np.nan)
    solution = run([problem], 1024, np.float32)[0]
    assert solution.fraction == 1.0
    assert solution.kkt <= FLOAT32
    unit_rows, norms = unit(rows)
    step = (solution.coefficients * norms) @ unit_rows
    assert np.min(unit_rows[1:] @ step) >= 0.1 - FLOAT32
    assert np.linalg.norm(step) <= 1.0 + 1e-5
