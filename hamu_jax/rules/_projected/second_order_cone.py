"""The second-order cone `{(s, v): s >= |v|}` where `v` is a combination of rows known by their inner products only.

The algebra that an interior-point method needs (Nesterov-Todd scaling and the cone's Jordan product), in Gram space: every
vector carries its inner products with all rows, so that one product with the Gram matrix serves many operations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Vector(NamedTuple):
    """The element `(number, sum_i weights_i b_i)`, with `products_j = <b_j, sum_i weights_i b_i>`."""

    number: Float[Array, ""]
    weights: Float[Array, " k"]
    products: Float[Array, " k"]


class Pair(NamedTuple):
    """A primal and a dual element, or a step of both."""

    primal: Vector
    dual: Vector


class Depth(NamedTuple):
    """How far inside the cone a primal `s` and a dual `z` are.

    Small differences of large numbers: so they are kept from step to step by what each step adds, instead of being formed
    anew (in float32 half of the digits would be lost).

    Attributes:
      primal: `s_0^2 - |s_1|^2`.
      dual: `z_0^2 - |z_1|^2`.
      gap: `<s, z>`.
    """

    primal: Float[Array, ""]
    dual: Float[Array, ""]
    gap: Float[Array, ""]


class Scaling(NamedTuple):
    """Nesterov-Todd scaling of a primal and a dual inside the cone: `W z = s / W`.

    Attributes:
      axis: `W = sqrt(ratio)` times the hyperbolic rotation that takes `(1, 0)` to `axis`.
      ratio: of the roots of the depths.
    """

    axis: Vector
    ratio: Float[Array, ""]


def dot(left: Array, right: Array) -> Array:
    """A product in full precision on every device (TPUs and GPUs round the factors otherwise)."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def vector(gram: Float[Array, "k k"], number: Float[Array, ""], weights: Float[Array, " k"]) -> Vector:
    """The element with these weights."""
    return Vector(number, weights, dot(gram, weights))


def inner(left: Vector, right: Vector) -> Float[Array, ""]:
    """The inner product of the vector parts."""
    return dot(left.weights, right.products)


def linear_combination(a: Array, left: Vector, b: Array, right: Vector) -> Vector:
    """`a left + b right`."""
    return jax.tree.map(lambda x, y: a * x + b * y, left, right)


def reflect(u: Vector) -> Vector:
    """The same number, the opposite vector."""
    return Vector(u.number, -u.weights, -u.products)


def depth(pair: Pair) -> Depth:
    """The depths of two elements, formed anew."""
    primal, dual = pair
    gap = primal.number * dual.number + inner(primal, dual)
    return Depth(primal.number**2 - inner(primal, primal), dual.number**2 - inner(dual, dual), gap)


def deepen(at: Depth, pair: Pair, step: Pair, size: Float[Array, ""]) -> Depth:
    """The depths after a step."""
    a, b = _curve(pair.primal, step.primal)
    c, d = _curve(pair.dual, step.dual)
    second = step.primal.number * step.dual.number + inner(step.primal, step.dual)
    first = pair.primal.number * step.dual.number + pair.dual.number * step.primal.number
    first = first + inner(pair.primal, step.dual) + inner(step.primal, pair.dual)
    return Depth(
        at.primal + size * (2.0 * b + size * a),
        at.dual + size * (2.0 * d + size * c),
        at.gap + size * (first + size * second),
    )


def scaling(pair: Pair, at: Depth) -> Scaling:
    """The scaling of two elements inside the cone."""
    root, root_dual = jnp.sqrt(at.primal), jnp.sqrt(at.dual)
    half = jnp.sqrt(2.0 * (1.0 + jnp.maximum(at.gap / (root * root_dual), 1.0)))
    axis = linear_combination(1.0 / (root * half), pair.primal, 1.0 / (root_dual * half), reflect(pair.dual))
    length = jnp.sqrt(1.0 + jnp.maximum(inner(axis, axis), 0.0))
    return Scaling(axis._replace(number=length), root / root_dual)


def bend(scaled: Scaling, at: Depth, dual: Vector, step: Pair) -> Vector:
    """Mehrotra's second-order term: `W` times the `x` with `l o x = (W^-1 ds) o (W dz)`, where `l = W z`."""
    product = _multiply(_apply(scaled, step.primal, inverse=True), _apply(scaled, step.dual))
    return _apply(scaled, _divide(_apply(scaled, dual), jnp.sqrt(at.primal) * jnp.sqrt(at.dual), product))


def to_boundary(u: Vector, step: Vector, square: Float[Array, ""]) -> Float[Array, ""]:
    """The largest `a` with `u + a step` in the cone, given the depth `square` of `u`; infinite if there is none."""
    a, b = _curve(u, step)
    root = jnp.sqrt(jnp.maximum(b**2 - a * square, 0.0)) - b
    reaches = (b**2 > a * square) & ((a < 0) | (b < 0)) & (root > 0)
    length = jnp.where(reaches, square / jnp.where(reaches, root, 1.0), jnp.inf)
    return jnp.minimum(length, to_zero(u.number, step.number))


def to_zero(values: Array, step: Array) -> Float[Array, ""]:
    """The largest `a` with `values + a step >= 0`."""
    return jnp.min(jnp.where(step < 0, -values / jnp.where(step < 0, step, -1.0), jnp.inf))


def _curve(u: Vector, step: Vector) -> tuple[Array, Array]:
    """`a, b` with depth `depth(u) + 2 b t + a t^2` at `u + t step`."""
    return step.number**2 - inner(step, step), u.number * step.number - inner(u, step)


def _apply(scaled: Scaling, u: Vector, *, inverse: bool = False) -> Vector:
    """`W u`, or `W^-1 u`."""
    axis, sign = scaled.axis, -1.0 if inverse else 1.0
    size = jnp.sqrt(1.0 / scaled.ratio if inverse else scaled.ratio)
    along = inner(axis, u)
    number = axis.number * u.number + sign * along
    moved = linear_combination(size, u, size * (sign * u.number + along / (1.0 + axis.number)), axis)
    return moved._replace(number=size * number)


def _multiply(u: Vector, v: Vector) -> Vector:
    """The Jordan product `(<u, v>, u_0 v_1 + v_0 u_1)`."""
    return linear_combination(u.number, v, v.number, u)._replace(number=u.number * v.number + inner(u, v))


def _divide(u: Vector, square: Array, v: Vector) -> Vector:
    """The `x` with `u o x = v`, given `square = u_0^2 - |u_1|^2`."""
    along = inner(u, v)
    moved = linear_combination(1.0 / u.number, v, (along / u.number - v.number) / square, u)
    return moved._replace(number=(u.number * v.number - along) / square)
