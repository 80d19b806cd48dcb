"""A guarantee for every request: the step that lowers one loss most while every other loss falls as required."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._kernel.inner_products import ratio
from hamu_jax.rules._projected.interior_point import maximise
from hamu_jax.rules._projected.program import Point, Program

NEVER = -2.0  # below any inner product of unit vectors: a row that requires nothing
UNREACHABLE = 2.0  # above any inner product of unit vectors
MARGIN = 1e-3  # a point that exceeds all requirements by this much shows that there is a choice
CLOSE = 64.0  # in units of rounding: levels that differ by less are the same


class Solution(NamedTuple):
    """What `solve` returns.

    Attributes:
      coefficients: `[m + 1]`, the step is `u = sum_i coefficients_i row_i`, to be subtracted.
      multipliers: `[m]`, of the requirements: `d <row_0, u> / d required_i = -multipliers_i` where the requirements can be
        met; otherwise the certificate that they cannot, `radius |sum_i multipliers_i row_i| = fraction` with
        `multipliers . required = 1` (if nothing is protected).
      fraction: `t`, the largest common fraction of the requirements that the ball allows; 1 if they can be met.
      kkt: the largest violation of an optimality condition, for rows and radius of length 1 and multipliers that sum to 1
        at most; of the problem that was solved, which is the one for `fraction` where that is below 1.
      iterations: Cholesky factorisations.
    """

    coefficients: Float[Array, " k"]
    multipliers: Float[Array, " m"]
    fraction: Float[Array, ""]
    kkt: Float[Array, ""]
    iterations: Int[Array, ""]


class _Units(NamedTuple):
    """Rows and radius of length 1, requirements as cosines.

    Attributes:
      gram: `[m + 1, m + 1]`, cosines.
      norms: `[m + 1]`, lengths of the rows.
      needed: `[m]`, `NEVER` for a row that no step can move.
      impossible: whether such a row has a positive requirement.
    """

    gram: Float[Array, "k k"]
    norms: Float[Array, " k"]
    needed: Float[Array, " m"]
    impossible: Bool[Array, ""]


def solve(gram: Float[Array, "k k"], required: Float[Array, " m"], radius: Float[Array, ""]) -> Solution:
    """The step that lowers loss 0 most, among those that lower every other loss as required and stay within the radius.

        maximise <row_0, u>   subject to   <row_i, u> >= required_i for i = 1..m,   |u| <= radius

    A negative requirement protects: loss i may rise by `-required_i` at most. If no such `u` exists, the positive
    requirements are scaled by the largest `t <= 1` for which one does, and `u` is the step that reaches it.

    Guarantees: `<row_i, u> >= t required_i - tolerance |row_i| radius` and `|u| <= radius`, with the tolerance reported as
    `kkt`: usually 1e-6 in float32 and 1e-13 in float64. Limits: where more rows meet in a point than there are
    dimensions, or protected losses leave hardly any room, float32 may end at 1e-3, in the optimum more than in the
    constraints. Only inner products are known, so that in float32 nothing that lies closer together than an angle of about
    3e-4 (the root of its rounding) can be told apart. Within `fraction = 1 +- 1e-5` (float32; 1e-14 in float64) the step is
    the one that reaches the fraction: the feasible steps hardly differ.

    Edge cases: where the ball does not bind, or row 0 is zero, the step is of the shortest kind that the active
    requirements determine; a requirement on a zero row, on opposite rows, or with radius 0 has `t = 0`, and then there
    is no step, since no step helps all; duplicated rows share their multiplier; a requirement of 0 or less on a zero row is
    void. Non-finite input gives no step, fraction 0 and an infinite `kkt`.

    Args:
      gram: `[m + 1, m + 1]`, inner products of the rows, gradients of losses to be lowered; row 0 is the one to optimise.
      required: `[m]`, the decrease required of each other loss, per unit of learning rate.
      radius: the longest step, per unit of learning rate.

    Returns:
      A `Solution`. Pure, with a bounded number of iterations: fit for `jit` and `vmap`.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = jnp.array([[1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]])
      >>> solution = solve(rows @ rows.T, jnp.array([0.0, 0.5]), jnp.array(1.0))
      >>> print((solution.coefficients @ rows).round(3), solution.fraction)
      [0.707 0.707] 1.0

    Source: docs/mathematics.md, section 5; `hamu_jax.rules._projected.interior_point` for the algorithm.
    """
    units = _normalise(gram, required, radius)
    largest = jnp.maximum(jnp.max(units.needed), 0.0)
    is_direct = (units.norms[0] > 0) & jnp.all(units.gram[1:, 0] >= units.needed)
    skip = is_direct | units.impossible

    def stage(closed: Array, program: Program) -> tuple[Array, tuple[Point, Array, Array, Array]]:
        """One program; the second is skipped unless the first shows that the requirements leave a choice."""
        point, is_enough, rounds = maximise(program, skip | closed)
        reached = jnp.where(is_enough | (largest <= 0), jnp.inf, point.level)
        is_open = (reached > largest * (1.0 + _close(gram))) & (units.norms[0] > 0)
        return ~is_open, (point, reached, closed, rounds)

    # A scan, so that the solver is compiled once: it is nearly all of the compilation.
    programs = jax.tree.map(lambda x, y: jnp.stack([x, y]), _share(units, largest), _best(units))
    _, (points, reached, closed, rounds) = jax.lax.scan(stage, largest <= 0, programs)
    is_open = ~closed[1] & ~skip

    unit = jnp.zeros_like(units.norms).at[0].set(1.0)
    point = jax.tree.map(lambda x, y: jnp.where(is_open, x[1], y), points, _shorten(points, reached[0], largest))
    direct = Point(unit, unit[0], unit, jnp.zeros_like(largest))
    point = jax.tree.map(lambda x, y: jnp.where(is_direct, x, y), direct, point)
    fraction = jnp.where(is_direct & ~units.impossible, 1.0, _fraction(units, reached[0], largest))
    finite = jnp.all(jnp.isfinite(gram)) & jnp.all(jnp.isfinite(required)) & jnp.isfinite(radius)
    fraction = jnp.where(finite, fraction, 0.0)
    moving = (fraction > 0) & (radius > 0)
    per_row = ratio(point.multipliers[1:], units.norms[1:])
    return Solution(
        coefficients=jnp.where(moving, radius, 0.0) * ratio(point.weights, units.norms),
        multipliers=jnp.where(is_direct | is_open, per_row * units.norms[0], ratio(per_row, largest * radius)),
        fraction=fraction,
        kkt=jnp.where(finite, jnp.where(moving, point.kkt, 0.0), jnp.inf),
        iterations=jnp.sum(rounds),
    )


def _close(gram: Array) -> float:
    """Levels that differ by less are the same."""
    return CLOSE * float(jnp.finfo(gram.dtype).eps)


def _normalise(gram: Array, required: Array, radius: Array) -> _Units:
    """Brings everything to the length 1, dividing one norm at a time: squares of small gradients have no square."""
    norms = jnp.sqrt(jnp.diagonal(gram))
    cosines = ratio(ratio(gram, norms[:, None]), norms[None, :])
    cosines = jnp.where(jnp.eye(norms.size, dtype=bool), (norms > 0).astype(gram.dtype), cosines)
    movable = (norms[1:] > 0) & (radius > 0)
    needed = jnp.where(movable, ratio(ratio(required, norms[1:]), radius), NEVER)
    return _Units(cosines, norms, jnp.maximum(needed, NEVER), jnp.any(~movable & (required > 0)))


def _share(units: _Units, largest: Array) -> Program:
    """As much as possible of what each request needs; in units of the largest, so that levels are at most 1."""
    positive = jnp.maximum(units.needed, 0.0)
    offset = jnp.where(units.needed > 0, 0.0, units.needed)
    enough = jnp.where(units.norms[0] > 0, largest * (1.0 + MARGIN), UNREACHABLE)
    zeros = jnp.zeros_like(units.norms)
    return Program(units.gram, zeros.at[1:].set(ratio(positive, largest)), (zeros + NEVER).at[1:].set(offset), enough)


def _best(units: _Units) -> Program:
    """Row 0 as high as possible, the others at their requirements."""
    zeros = jnp.zeros_like(units.norms)
    return Program(units.gram, zeros.at[0].set(1.0), zeros.at[1:].set(units.needed), jnp.full_like(zeros[0], UNREACHABLE))


def _fraction(units: _Units, reached: Array, largest: Array) -> Array:
    """The fraction of the requirements that a common level means; 0 where that is the rounding of the products."""
    fraction = jnp.where(reached > _close(units.gram), ratio(reached, largest), 0.0)
    fraction = jnp.where((reached >= largest * (1.0 - _close(units.gram))) | (largest <= 0), 1.0, fraction)
    return jnp.where(units.impossible, 0.0, fraction)


def _shorten(points: Point, reached: Array, largest: Array) -> Point:
    """The first program's point, no longer than the requirements ask; with none, no step."""
    share = jax.tree.map(lambda x: x[0], points)
    length = jnp.where(largest > 0, jnp.minimum(1.0, ratio(jnp.broadcast_to(largest, reached.shape), reached)), 0.0)
    length = jnp.where(reached > 0, length, 1.0)
    return Point(share.weights * length, share.level, share.multipliers, jnp.where(largest > 0, share.kkt, 0.0))
