"""Problems of the projected solve with Clarabel's answers, and what is wrong with a solution of them.

They are padded with zero rows that require nothing, so that few shapes are compiled. Errors are in the units of the
normalised problem: cosines for constraints, shares of `radius |row_0|` for the objective.
"""

import functools
import itertools
from typing import Any, NamedTuple

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse

from hamu_jax.rules._projected.solve import Solution, solve

SMALL, LARGE = 24, 200
batched = jax.jit(jax.vmap(solve))
in_turn = jax.jit(lambda *problems: jax.lax.map(lambda problem: solve(*problem), problems))  # none waits for the slowest


class Case(NamedTuple):
    """One problem in float64, and what Clarabel says of it."""

    kind: str
    rows: np.ndarray
    required: np.ndarray
    radius: float
    fraction: float  # not capped at 1
    objective: float  # nan where not solvable


def unit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1, in as few coordinates as they need, and their norms."""
    norms = np.linalg.norm(rows, axis=1)
    rows = rows / np.where(norms > 0, norms, 1.0)[:, None]
    if rows.shape[1] > rows.shape[0]:
        rows = scipy.linalg.qr(rows.T, mode="economic")[1].T
    return rows, norms


def cosines(rows: np.ndarray, required: np.ndarray, radius: float) -> np.ndarray:
    """The requirements in units of `radius |row_i|`; a void one where the row is zero."""
    norms = np.linalg.norm(rows[1:], axis=1) * radius
    return np.where(norms > 0, required / np.where(norms > 0, norms, 1.0), np.where(required > 0, np.inf, -2.0))


def clarabel_solve(cost: np.ndarray, matrix: np.ndarray, bound: np.ndarray, dimension: int) -> np.ndarray:
    """Minimises `cost.x` subject to `matrix x <= bound` and the first `dimension` coordinates in the unit ball."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    settings.max_iter = 300
    ball = np.zeros((dimension + 1, cost.size))
    ball[1:, :dimension] = -np.eye(dimension)
    matrix = scipy.sparse.csc_matrix(np.vstack([matrix, ball]))
    bound = np.concatenate([bound, [1.0], np.zeros(dimension)])
    cones = [clarabel.NonnegativeConeT(bound.size - dimension - 1), clarabel.SecondOrderConeT(dimension + 1)]
    quadratic = scipy.sparse.csc_matrix((cost.size, cost.size))
    return np.asarray(clarabel.DefaultSolver(quadratic, cost, matrix, bound, cones, settings).solve().x)


def largest_fraction(rows: np.ndarray, needed: np.ndarray) -> float:
    """The largest `t` for which `rows[1:] v >= t needed` where `needed > 0`, and `>= needed` elsewhere, fit in the ball."""
    if np.isinf(needed).any():
        return 0.0
    positive = np.maximum(needed, 0.0)
    if not positive.any():
        return np.inf
    level = clarabel_solve(
        np.append(np.zeros(rows.shape[1]), -1.0),
        np.column_stack([-rows[1:], positive / positive.max()]),
        np.maximum(-needed, 0.0),
        rows.shape[1],
    )[-1]
    return max(level, 0.0) / positive.max()


def best_objective(rows: np.ndarray, needed: np.ndarray) -> float:
    """The largest `rows[0] v`."""
    point = clarabel_solve(-rows[0], -rows[1:], -needed, rows.shape[1])
    return float(rows[0] @ point)


KINDS = (
    "generic", "correlated", "few dimensions", "low rank", "duplicates", "parallel", "zero row", "opposite",
    "scales", "zero requirements", "protected", "in the cone", "no retain gradient", "at the boundary", "easy", "tiny",
)  # fmt: skip


def draw(kind: str, m: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:  # noqa: PLR0912, a table
    """Rows, and requirements as cosines up to a common factor."""
    rows = rng.standard_normal((m + 1, n))
    needed = rng.uniform(0.2, 1.0, m)
    twin = 1 + rng.integers(0, max(1, m // 3), m)
    if kind == "correlated":
        rows = 0.3 * rows + rng.standard_normal(n)
    elif kind == "few dimensions":
        rows = rows[:, : max(2, m // 4)]
    elif kind == "low rank":
        rank = max(1, min(m // 4 + 1, n))
        rows = rows[:, :rank] @ rng.standard_normal((rank, n))
    elif kind == "duplicates":
        rows[1:] = rows[twin]
    elif kind == "parallel":
        rows[1:] = rows[twin] + 10.0 ** rng.uniform(-6, -1, (m, 1)) * rng.standard_normal((m, n))
    elif kind == "zero row":
        rows[1 + rng.integers(m)] = 0.0
    elif kind == "opposite":
        rows[m] = -3.0 * rows[1]
    elif kind == "scales":
        rows *= 10.0 ** rng.uniform(-8, 4, (m + 1, 1))
    elif kind == "zero requirements":
        needed[rng.random(m) < 0.5] = 0.0
    elif kind == "protected":
        needed = np.where(rng.random(m) < 0.5, -rng.uniform(0, 0.3, m), needed)
    elif kind == "in the cone":
        rows[0] = -rng.random(m) @ rows[1:]
    elif kind == "no retain gradient":
        rows[0] = 0.0
    elif kind == "meeting":  # most constraints hold with equality at one point of the sphere
        point = rng.standard_normal(n)
        along = rows[1:] @ point / (np.linalg.norm(rows[1:], axis=1) * np.linalg.norm(point))
        rows[1:] *= np.where(along < 0, -1.0, 1.0)[:, None]
        needed = np.minimum(needed, np.abs(along))
    elif kind == "easy":
        rows[1:] += 2.0 * rows[0]
    elif kind == "tiny":
        needed *= 10.0 ** rng.uniform(-8, 0, m)
    return rows, needed


def case(kind: str, m: int, n: int, rng: np.random.Generator) -> Case:
    """A problem whose requirements are a chosen multiple of what is possible."""
    rows, needed = draw(kind, m, n, rng)
    coordinates, norms = unit(rows)
    positive = needed > 0
    possible = largest_fraction(coordinates, needed) if (norms[1:] > 0).all() else 1.0
    if kind == "meeting":
        possible = 0.0  # leave it as it is
    multiple = rng.choice([0.9999, 1.0001] if kind == "at the boundary" else [0.3, 0.9, 0.99, 1.5])
    if 1e-6 < possible < np.inf:
        needed = np.where(positive, multiple * possible * needed, needed)
    radius = 10.0 ** rng.uniform(-3, 3)
    required = needed * radius * norms[1:]
    if kind == "zero row" and rng.random() < 0.5:
        required[norms[1:] == 0] = 1.0
    needed = cosines(rows, required, radius)
    fraction = largest_fraction(coordinates, needed)
    solvable = fraction >= 1.0 and norms[0] > 0
    objective = best_objective(coordinates, needed) if solvable else np.nan
    return Case(kind, rows, required, radius, fraction, objective)


@functools.cache
def cases(size: int, kinds: tuple[str, ...] = KINDS) -> list[Case]:
    """All problems of up to `size` requirements, with Clarabel's answers."""
    rng = np.random.default_rng(size)
    if size == SMALL:
        shapes = [(1, 2), (1, 100), (2, 2), (2, 50), (3, 3), (4, 1000), (5, 7), (8, 2), (8, 30), (12, 4), (12, 200), (16, 5),
                  (16, 300), (20, 20), (24, 10), (24, 2000), (24, 10_000)]  # fmt: skip
    else:
        shapes = [(100, 3000), (200, 20)]
    return [case(kind, m, n, rng) for kind, (m, n) in itertools.product(kinds, shapes)]


def run(problems: list[Case], size: int, dtype: Any) -> list[Solution]:
    """All problems in one batch, padded."""
    grams, required = np.zeros((len(problems), size + 1, size + 1), dtype), np.zeros((len(problems), size), dtype)
    for i, problem in enumerate(problems):
        k = problem.rows.shape[0]
        rows = problem.rows.astype(dtype)
        grams[i, :k, :k] = rows @ rows.T
        required[i, : k - 1] = problem.required
    radius = np.array([problem.radius for problem in problems], dtype)
    solver = batched if len(problems) == 1 else in_turn
    solutions = jax.tree.map(np.asarray, solver(jnp.asarray(grams), jnp.asarray(required), jnp.asarray(radius)))
    return [jax.tree.map(lambda x, i=i: x[i], solutions) for i in range(len(problems))]


class Errors(NamedTuple):
    """What is wrong with a solution, measured on the rows in float64."""

    fraction: float
    violation: float
    length: float
    objective: float
    duality: float
    kkt: float


def errors(problem: Case, solution: Solution, resolution: float) -> Errors:
    """Compares with Clarabel, with the constraints, and with weak duality.

    The objective and the multipliers are compared where Clarabel's fraction exceeds 1 by more than `resolution`: nearer to
    it the feasible set is a point but for rounding, and multipliers grow without bound. They are divided by the multipliers'
    sum where that exceeds 1, since that is what rounding of the requirements is multiplied by.
    """
    k = problem.rows.shape[0]
    rows, norms = unit(problem.rows)
    step = (solution.coefficients[:k].astype(np.float64) * norms / problem.radius) @ rows
    needed = cosines(problem.rows, problem.required, problem.radius)
    scaled = np.where(needed > 0, solution.fraction * needed, needed) if solution.fraction > 0 else np.minimum(needed, 0.0)
    fraction = abs(float(solution.fraction) - min(problem.fraction, 1.0))
    objective = duality = 0.0
    if norms[0] > 0 and problem.fraction > 1.0 + resolution and solution.fraction == 1.0:
        multipliers = solution.multipliers[: k - 1].astype(np.float64) * norms[1:] / norms[0]
        total = max(multipliers.sum(), 1.0)
        bound = np.linalg.norm(rows[0] + multipliers @ rows[1:]) - multipliers @ needed
        objective = abs(rows[0] @ step - problem.objective) / total
        duality = abs(bound - problem.objective) / total
    violation, length = np.max(scaled - rows[1:] @ step), np.linalg.norm(step) - 1.0
    return Errors(fraction, violation, length, objective, duality, float(solution.kkt))
