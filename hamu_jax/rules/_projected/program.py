"""The program that is solved, its candidates, and how far from optimal a candidate is.

Rows `b_i` of unit length are known by their inner products only:

    maximise tau   subject to   <b_i, v> >= tau d_i + e_i  for all rows i,   |v| <= 1

Its dual is `min |sum_i lambda_i b_i| - e.lambda` subject to `d.lambda = 1`, `lambda >= 0`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from hamu_jax.rules._projected.second_order_cone import dot

HEAVIEST = 100.0


class Program(NamedTuple):
    """Rows of unit length (or zero), by inner products, and what is required along them.

    Attributes:
      gram: `[k, k]`, inner products of the rows.
      slope: `[k]`, `d >= 0`.
      offset: `[k]`, `e`.
      enough: a point strictly inside that reaches this level will do.
    """

    gram: Float[Array, "k k"]
    slope: Float[Array, " k"]
    offset: Float[Array, " k"]
    enough: Float[Array, ""]


class Point(NamedTuple):
    """A candidate: `v = sum_i weights_i b_i`, its level, its multipliers, and how far from optimal it is (see `judge`)."""

    weights: Float[Array, " k"]
    level: Float[Array, ""]
    multipliers: Float[Array, " k"]
    kkt: Float[Array, ""]


def judge(program: Program, weights: Array, level: Array, multipliers: Array) -> Point:
    """Normalises the multipliers, draws `v` into the ball, and measures the optimality conditions.

    The residual is the largest of: violation of a row, `lambda_i slack_i`, `kappa (1 - |v|^2)` and the stationarity
    `<b_i, sum_j lambda_j b_j - kappa v>`, the last three per unit of `weight`; plus the
    rounding of `v` itself, so that weights that cancel are worse than weights that don't.
    """
    multipliers = jnp.maximum(multipliers, 0.0)
    total = dot(program.slope, multipliers)
    multipliers = multipliers / jnp.where(total > 0, total, 1.0)
    length = jnp.sqrt(jnp.maximum(dot(weights, dot(program.gram, weights)), 0.0))
    weights = weights / jnp.maximum(length, 1.0)
    products = dot(program.gram, weights)
    slack = products - level * program.slope - program.offset
    kappa = jnp.maximum(dot(multipliers, products), 0.0)
    conditions = [
        jnp.max(jnp.abs(multipliers * slack)),
        kappa * jnp.maximum(1.0 - length**2, 0.0),
        jnp.max(jnp.abs(dot(program.gram, multipliers) - kappa * products)),
    ]
    kkt = jnp.maximum(jnp.max(-slack), jnp.max(jnp.stack(conditions)) / weight(multipliers))
    kkt = kkt + eps(program.gram) * jnp.sum(jnp.abs(weights))
    return Point(weights, level, multipliers, jnp.where(jnp.isfinite(kkt) & (total > 0), jnp.maximum(kkt, 0.0), jnp.inf))


def weight(multipliers: Float[Array, " k"]) -> Float[Array, ""]:
    """The unit of errors: the sum of the multipliers, at least 1 and at most `HEAVIEST`, beyond which any error would pass.

    Multipliers are unbounded where opposite rows leave no interior.
    """
    return jnp.clip(jnp.sum(multipliers), 1.0, HEAVIEST)


def eps(gram: Float[Array, "k k"]) -> float:
    """The unit roundoff."""
    return float(jnp.finfo(gram.dtype).eps)


def jitter(gram: Float[Array, "k k"]) -> Float[Array, ""]:
    """What makes a singular Gram matrix of unit rows factorisable: of the size of its own rounding."""
    return jnp.asarray(4.0 * eps(gram) * gram.shape[0] ** 0.5, gram.dtype)
