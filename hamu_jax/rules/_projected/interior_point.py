"""A primal-dual interior-point method for `hamu_jax.rules._projected.program.Program`: the largest common level in a ball.

It needs 5 to 30 Cholesky factorisations of `G + diag` whatever the size (Nesterov-Todd scaling,
Mehrotra's predictor and corrector), and duplicated, opposite and nearly parallel rows do not slow it down. Tried and rejected:
the ball as `|v|^2 <= 1` with a multiplier of its own, which diverged or jammed at the boundary; no second-order term for the
cone (60 iterations and more). Projected gradients stall on ill-conditioned Gram matrices, and pivoting takes as many steps
as there are rows.

Its weakness is cancellation: where the ball does not bind, multipliers of size 1/gap must cancel in `v`, and in float32 the
ball's system loses half of its digits. So an active-set polish follows; it brings most answers to rounding error.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

from hamu_jax.rules._projected.active_set import polish
from hamu_jax.rules._projected.program import Point, Program, eps, jitter, judge, weight
from hamu_jax.rules._projected.second_order_cone import (
    Depth,
    Pair,
    Scaling,
    Vector,
    bend,
    deepen,
    depth,
    dot,
    inner,
    reflect,
    scaling,
    to_boundary,
    to_zero,
    vector,
)

MAX_ITERATIONS = 50
SMALLEST_STEP = 1e-5
NOISE = 4.0  # units of rounding of the weights: a smaller gap is rounding error
STALL = 50.0  # in roots of the unit roundoff: with a smaller error, a step that gains nothing is the last
BACK_OFF = 0.99  # share of the way to the boundary that a step may go
FLOOR = 0.2  # the least gap aimed at, as a share of the gap at which to stop
JITTER_GROWTH = 100.0  # after a failed factorisation


class _Iterate(NamedTuple):
    """The interior point.

    Attributes:
      pair: `(1, v)` and `(kappa, -sum_i multipliers_i b_i)`, both inside the cone.
      depth: how far inside.
      level: `tau`.
      slack: of the rows' constraints, positive.
      multipliers: positive.
      error: gap per unit of multipliers, or violation.
      jitter: added to the diagonal.
      steps: taken so far.
      done: nothing more can be gained.
      enough: `program.enough` is reached.
    """

    pair: Pair
    depth: Depth
    level: Float[Array, ""]
    slack: Float[Array, " k"]
    multipliers: Float[Array, " k"]
    error: Float[Array, ""]
    jitter: Float[Array, ""]
    steps: Int[Array, ""]
    done: Bool[Array, ""]
    enough: Bool[Array, ""]


class _Step(NamedTuple):
    """A direction from an `_Iterate`."""

    pair: Pair
    level: Float[Array, ""]
    slack: Float[Array, " k"]
    multipliers: Float[Array, " k"]


class _Aim(NamedTuple):
    """Where a step should lead: `multipliers_i slack_i = rows_i`, and `cone` in the cone, with its second-order term."""

    rows: Float[Array, " k"]
    cone: Float[Array, ""]
    bend: Vector


class _System(NamedTuple):
    """The factorised Newton system at an iterate, its solutions for the two border columns, and the second's pivot."""

    scaled: Scaling
    factor: Float[Array, "k k"]
    along: Float[Array, " k"]
    across: Float[Array, " k"]
    pivot: Float[Array, ""]


def maximise(program: Program, skip: Bool[Array, ""]) -> tuple[Point, Bool[Array, ""], Int[Array, ""]]:
    """Solves the program (or not at all, where `skip`).

    Returns:
      The best point found; whether it was left early because it reaches `program.enough`; the number of factorisations.
    """
    start = _start(program, skip)
    last = jax.lax.while_loop(lambda at: ~at.done & (at.steps < MAX_ITERATIONS), lambda at: _advance(program, at), start)
    point = judge(program, last.pair.primal.weights, last.level, last.multipliers)
    leaning = last.multipliers / (last.slack * weight(last.multipliers))
    point, rounds = polish(program, point, leaning, skip | last.enough)
    return point, last.enough, last.steps + rounds


def _start(program: Program, skip: Array) -> _Iterate:
    """The centre of the ball, a level low enough, and multipliers near the central path."""
    unit = jnp.ones_like(program.enough)
    total = dot(program.slope, jnp.ones_like(program.slope))
    slack = jnp.maximum(program.slope - program.offset, 1.0)
    multipliers = 1.0 / (slack * jnp.where(total > 0, total, 1.0))
    dual = reflect(vector(program.gram, unit, multipliers))
    dual = dual._replace(number=jnp.sqrt(jnp.maximum(inner(dual, dual), 0.0)) + jnp.max(multipliers))
    pair = Pair(vector(program.gram, unit, jnp.zeros_like(slack)), dual)
    return _Iterate(
        pair=pair,
        depth=depth(pair),
        level=-unit,
        slack=slack,
        multipliers=multipliers,
        error=jnp.full_like(unit, jnp.inf),
        jitter=jitter(program.gram),
        steps=jnp.zeros([], jnp.int32),
        done=skip,
        enough=jnp.zeros_like(skip),
    )


def _advance(program: Program, at: _Iterate) -> _Iterate:
    """One step; where it fails, the same point with a larger jitter; where it gains nothing, the same point, done."""
    new = _examine(program, _move(program, at, _direction(program, at)))
    gains_nothing = (new.error > at.error) & (at.error < STALL * eps(program.gram) ** 0.5) & ~new.enough
    finite = jnp.isfinite(new.error) & jnp.all(jnp.isfinite(new.pair.dual.products))
    larger = at.jitter * JITTER_GROWTH
    stay = at._replace(
        steps=new.steps,
        jitter=jnp.where(finite, at.jitter, larger),
        done=jnp.where(finite, gains_nothing, larger > 1.0),
    )
    return jax.tree.map(lambda old, moved: jnp.where(finite & ~gains_nothing, moved, old), stay, new)


def _direction(program: Program, at: _Iterate) -> _Step:
    """Mehrotra's predictor and corrector."""
    system = _factorise(program, at)
    zero, zeros = jnp.zeros_like(at.level), jnp.zeros_like(at.slack)
    predictor = _newton(program, at, system, _Aim(zeros, zero, Vector(zero, zeros, zeros)))
    left = (1.0 - jnp.minimum(_longest(at, predictor), 1.0)) ** 3
    floor = FLOOR * _resolution(program.gram) * weight(at.multipliers)
    centre = jnp.maximum(left * _gap(at), floor) / (at.slack.size + 1)
    bent = bend(system.scaled, at.depth, at.pair.dual, predictor.pair)
    return _newton(program, at, system, _Aim(centre - predictor.multipliers * predictor.slack, centre, bent))


def _move(program: Program, at: _Iterate, step: _Step) -> _Iterate:
    """As far along a direction as the constraints allow. Products are formed anew, so that errors don't add up."""
    size = jnp.minimum(BACK_OFF * _longest(at, step), 1.0)
    multipliers = at.multipliers + size * step.multipliers
    primal, dual = (jax.tree.map(lambda x, y: x + size * y, x, y) for x, y in zip(at.pair, step.pair, strict=True))
    pair = Pair(vector(program.gram, primal.number, primal.weights), reflect(vector(program.gram, dual.number, multipliers)))
    return at._replace(
        pair=pair,
        depth=deepen(at.depth, at.pair, step.pair, size),
        level=at.level + size * step.level,
        slack=at.slack + size * step.slack,
        multipliers=multipliers,
        steps=at.steps + 1,
        done=size < SMALLEST_STEP,
    )


def _examine(program: Program, at: _Iterate) -> _Iterate:
    """Whether to stop here."""
    primal = at.pair.primal
    reserve = jnp.min(primal.products - program.enough * program.slope - program.offset)
    enough = (at.level >= program.enough) & (reserve >= 0) & (inner(primal, primal) <= 1.0)
    missing = jnp.max(jnp.abs(primal.products - at.level * program.slope - program.offset - at.slack))
    error = jnp.maximum(_gap(at) / weight(at.multipliers), missing)
    rounding = NOISE * eps(program.gram) * jnp.sum(jnp.abs(primal.weights))
    done = at.done | enough | (error < jnp.maximum(_resolution(program.gram), rounding))
    return at._replace(error=error, enough=enough, done=done)


def _resolution(gram: Float[Array, "k k"]) -> float:
    """The gap at which the interior point ends and the polish begins."""
    return eps(gram) ** 0.8


def _gap(at: _Iterate) -> Array:
    """Total complementarity: how much the dual objective exceeds the primal, once both are feasible."""
    return dot(at.multipliers, at.slack) + at.depth.gap


def _factorise(program: Program, at: _Iterate) -> _System:
    """The scaling of the ball, and the factor of `G + diag(slack / lambda) / ratio`."""
    scaled = scaling(at.pair, at.depth)
    diagonal = at.slack / (at.multipliers * scaled.ratio) + at.jitter
    factor = jnp.linalg.cholesky(program.gram + jnp.diag(diagonal))
    columns = cho_solve((factor, True), jnp.stack([program.slope / scaled.ratio, scaled.axis.products], axis=-1))
    # With M = G + E this is 1 + 2 w.(G - G M^-1 G) w. Near the boundary w is long and that form cancels; E w does not.
    pivot = 1.0 + 2.0 * jnp.maximum(dot(columns[:, 1], diagonal * scaled.axis.weights), 0.0)
    return _System(scaled, factor, columns[:, 0], columns[:, 1], pivot)


def _newton(program: Program, at: _Iterate, system: _System, aim: _Aim) -> _Step:
    """The Newton direction to an aim.

    Eliminating all but the multipliers leaves `(ratio G + diag(slack / lambda)) change = ...` bordered by two unknowns: the
    new level, and `turn`, the change of the dual along the scaling's axis.
    """
    (primal, dual), (axis, ratio) = at.pair, system.scaled
    pull = aim.cone / at.depth.dual
    outward = aim.rows / at.multipliers + program.offset + pull * dual.products + aim.bend.products
    free = cho_solve((system.factor, True), outward / ratio)
    constant = (pull * dual.number - 1.0 - aim.bend.number) / ratio
    a, b = dot(program.slope, system.along), 2.0 * dot(program.slope, system.across)
    c, d = -dot(axis.products, system.along), system.pivot
    p = 1.0 - dot(program.slope, at.multipliers + free)
    q = axis.number * constant + dot(axis.products, free)
    level, turn = (p * d - b * q) / (a * d - b * c), (a * q - c * p) / (a * d - b * c)

    change = free + level * system.along + 2.0 * turn * system.across
    weights = pull * at.multipliers - aim.bend.weights + ratio * (change - 2.0 * turn * axis.weights)
    primal_step = vector(program.gram, jnp.zeros_like(level), weights - primal.weights)
    slack = primal.products + primal_step.products - level * program.slope - program.offset
    dual_step = reflect(vector(program.gram, 2.0 * axis.number * turn - constant, change))
    return _Step(Pair(primal_step, dual_step), level - at.level, slack - at.slack, change)


def _longest(at: _Iterate, step: _Step) -> Array:
    """How far a step may go until a slack, a multiplier or a depth is zero."""
    lengths = [
        to_zero(at.slack, step.slack),
        to_zero(at.multipliers, step.multipliers),
        to_boundary(at.pair.primal, step.pair.primal, at.depth.primal),
        to_boundary(at.pair.dual, step.pair.dual, at.depth.dual),
    ]
    return jnp.min(jnp.stack(lengths))
