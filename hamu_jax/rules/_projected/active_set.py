"""An active-set method: it makes a nearly optimal candidate as accurate as the dtype allows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._kernel.inner_products import ratio
from hamu_jax.rules._projected.program import Point, Program, eps, jitter, judge, weight
from hamu_jax.rules._projected.second_order_cone import dot

ROUNDS = 5  # of exchanging rows before another reading of the interior point
READINGS = (1.0, 30.0, 1000.0)  # a row is active where its multiplier exceeds this many times its slack
REFINEMENTS = 3


class _Polish(NamedTuple):
    """The best point so far, and the rows that the next round takes as equations."""

    best: Point
    active: Bool[Array, " k"]
    rounds: Int[Array, ""]
    done: Bool[Array, ""]


def polish(program: Program, point: Point, leaning: Array, skip: Array) -> tuple[Point, Int[Array, ""]]:
    """Solves the optimality conditions on the rows that `leaning > 1` says are active; exchanges rows if they are wrong.

    Exchanging can cycle where many rows meet in a point, so that every few rounds it starts again with another threshold for
    `leaning`. One row is active in any case: `d.lambda = 1`, so that the largest of these terms is not 0.
    """
    readings = jnp.asarray(READINGS, leaning.dtype)
    certain = jnp.arange(leaning.size) == jnp.argmax(program.slope * point.multipliers)

    def advance(at: _Polish) -> _Polish:
        fresh = leaning > readings[at.rounds // ROUNDS]
        active = certain | jnp.where(at.rounds % ROUNDS == 0, fresh, at.active)
        latest, exchanged = _equations(program, active, point.multipliers)
        best = jax.tree.map(lambda new, old: jnp.where(latest.kkt < at.best.kkt, new, old), latest, at.best)
        return _Polish(best, exchanged, at.rounds + 1, best.kkt < _tolerance(program.gram))

    start = _Polish(point, leaning > 1.0, jnp.zeros([], jnp.int32), skip)
    last = jax.lax.while_loop(lambda at: ~at.done & (at.rounds < ROUNDS * len(READINGS)), advance, start)
    return last.best, last.rounds


def _equations(program: Program, active: Array, guess: Array) -> tuple[Point, Array]:
    """The best of the points at which all active rows hold with equality, or of no step; and the rows to try next.

    With `G_A x = tau d + e`, `|v|^2` is a parabola in `tau`. One candidate is where it leaves the ball. The other is the
    shortest, right where the ball does not bind: its level is then the only one at which the equations agree, and the
    multipliers cancel, `G_A lambda = 0`.
    """
    gram = jnp.where(active[:, None] & active[None, :], program.gram, 0.0)
    factor = jnp.linalg.cholesky(gram + jnp.diag(jnp.where(active, jitter(gram), 1.0)))

    def solve(right: Array) -> Array:
        """Solves with iterative refinement: the bias of the jitter goes down with each round."""
        right = jnp.where(active, right, 0.0)
        solution = cho_solve((factor, True), right)
        for _ in range(REFINEMENTS):
            solution = solution + cho_solve((factor, True), right - dot(gram, solution))
        return jnp.where(active, solution, 0.0)

    def nearest(target: Array) -> Array:
        """The multipliers nearest to the guess with `G_A lambda = target`: more rows than dimensions leave a choice."""
        near = jnp.where(active, guess, 0.0)
        return near - solve(dot(gram, near) - target)

    slope = solve(program.slope)
    inverse = ratio(jnp.ones_like(program.enough), dot(program.slope, slope))
    level = -dot(jnp.where(active, program.offset, 0.0), slope) * inverse
    shortest = solve(level * program.slope + program.offset)
    room = jnp.maximum(1.0 - dot(shortest, dot(gram, shortest)), 0.0)
    rise = jnp.sqrt(room * inverse)
    bound = shortest + rise * slope
    pull = ratio(jnp.ones_like(rise), dot(program.slope, bound))
    zeros, cancelling = jnp.zeros_like(bound), nearest(jnp.zeros_like(bound))

    weights = jnp.stack([bound, bound, shortest, shortest, shortest, zeros, zeros, zeros])
    zero = jnp.zeros_like(level)
    levels = jnp.stack([level + rise, level + rise, level, level, level, zero, zero, zero])
    multipliers = jnp.stack([nearest(pull * dot(gram, bound)), bound, cancelling, slope, guess, cancelling, slope, guess])
    points = jax.vmap(judge, in_axes=(None, 0, 0, 0))(program, weights, levels, multipliers)
    candidate = jnp.where(points.kkt[0] <= points.kkt[2], 0, 2)
    slack = dot(program.gram, weights[candidate]) - levels[candidate] * program.slope - program.offset
    exchanged = multipliers[candidate] > weight(jnp.abs(multipliers[candidate])) * slack
    return jax.tree.map(lambda x: x[jnp.argmin(points.kkt)], points), exchanged


def _tolerance(gram: Float[Array, "k k"]) -> float:
    """The residual at which the polish ends: a few digits above rounding."""
    return max(40.0 * eps(gram), 1e-11)
