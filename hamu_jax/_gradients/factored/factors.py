"""Factors of gradients: their inner products, and what they are applied to.

A gradient is a sum over positions of outer products `G = sum_t left_t right_t^T`. Then
`<G, G'> = sum_ts <left_t, left'_s> <right_t, right'_s>`: two matrix products and one of their elements.
"""

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Form: TypeAlias = Literal["cheapest", "outer", "formed"]

LARGEST = 1 << 24  # numbers in the products of all pairs of positions that are in memory at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneHot:
    """A factor of which every position is a unit vector.

    Attributes:
      index: `[examples, batch, positions]`, where the 1 is.
      size: the vectors' length.
    """

    index: Int[Array, "*examples batch positions"]
    size: int = dataclasses.field(metadata={"static": True})


Factor: TypeAlias = Float[Array, "*examples batch positions size"] | OneHot
Pair: TypeAlias = tuple[Factor, Factor]


def options(dtype: Any) -> dict[str, Any]:
    """Of every matrix product."""
    return {"precision": "highest", "preferred_element_type": dtype}


def wide(pair: Pair, dtype: Any) -> Pair:
    """Both factors in the accumulation dtype."""
    left, right = (factor if isinstance(factor, OneHot) else factor.astype(dtype) for factor in pair)
    return left, right


def batch(factor: Factor) -> int:
    """The number of matrices that a weight is."""
    return (factor.index if isinstance(factor, OneHot) else factor).shape[1]


def positions(factor: Factor) -> int:
    """The number of outer products that a gradient is a sum of."""
    return factor.index.shape[-1] if isinstance(factor, OneHot) else factor.shape[-2]


def _length(factor: Factor) -> int:
    return factor.size if isinstance(factor, OneHot) else factor.shape[-1]


def _work(factor: Factor) -> int:
    """Operations of the inner product of two vectors of a factor."""
    return 1 if isinstance(factor, OneHot) else factor.shape[-1]


def _count(factor: Factor) -> int:
    return (factor.index if isinstance(factor, OneHot) else factor).shape[0]


def pairwise_costs(ours: list[Pair], theirs: list[Pair]) -> tuple[int, int]:
    """Operations for the products of all pairs by outer products, and by formed gradients, per batch entry."""
    left_count, right_count = _count(ours[0][0]), _count(theirs[0][0])
    t, s = (sum(positions(left) for left, _ in side) for side in (ours, theirs))
    vectors = max(_work(left) + _work(right) for left, right in ours)
    numbers = _length(ours[0][0]) * _length(ours[0][1])
    pairs, formed_at = left_count * right_count, left_count * t + right_count * s
    return pairs * t * s * (vectors + 2), (formed_at + pairs) * numbers


def costs(factors: list[Pair]) -> tuple[int, int]:
    """The same for the norm of one example."""
    t = sum(positions(left) for left, _ in factors)
    vectors = max(_work(left) + _work(right) for left, right in factors)
    numbers = _length(factors[0][0]) * _length(factors[0][1])
    return t * t * (vectors + 2), (t + 1) * numbers


def is_formed(form: Form, costs: tuple[int, int]) -> bool:
    """Whether to form gradients, given the costs of outer products and of formed gradients."""
    return form == "formed" or (form == "cheapest" and costs[0] > costs[1])


def formed(factors: list[Pair]) -> Float[Array, "examples batch left right"]:
    """Every example's gradient."""

    def of_example(pair: Pair) -> Array:
        return summed(*jax.tree.map(lambda x: x[None], pair))

    return sum(jax.vmap(of_example)(pair) for pair in factors)  # pyright: ignore[reportReturnType]


def outer(ours: Pair, theirs: Pair, dtype: Any) -> Float[Array, "batch k l"]:
    """Inner products of the gradients of one use with those of another, a few examples at a time where positions are many."""

    def of_some(ours: Pair) -> Array:
        (left, right), (other_left, other_right) = ours, theirs
        both = _inner(left, other_left, dtype) * _inner(right, other_right, dtype)
        return jnp.sum(both, axis=(2, 4))

    pairs_of_positions = positions(ours[0]) * positions(theirs[0])
    size = max(1, LARGEST // (_count(theirs[0]) * pairs_of_positions))
    if pairs_of_positions == 1 or size >= _count(ours[0]):
        return of_some(ours)
    each = jax.lax.map(lambda pair: of_some(jax.tree.map(lambda x: x[None], pair))[:, 0], ours, batch_size=size)
    return jnp.swapaxes(each, 0, 1)


def _inner(ours: Factor, theirs: Factor, dtype: Any) -> Float[Array, "batch k t l s"]:
    """Inner products of all vectors of a factor with all of another."""
    if isinstance(ours, OneHot) and isinstance(theirs, OneHot):
        mine, other = jnp.moveaxis(ours.index, 1, 0), jnp.moveaxis(theirs.index, 1, 0)
        return (mine[..., None, None] == other[:, None, None]).astype(dtype)
    if isinstance(ours, OneHot):
        columns = jnp.einsum("lbsi->bils", theirs)
        return jax.vmap(lambda index, table: table[index])(jnp.moveaxis(ours.index, 1, 0), columns)
    if isinstance(theirs, OneHot):
        return jnp.transpose(_inner(theirs, ours, dtype), (0, 3, 4, 1, 2))
    return jnp.einsum("kbti,lbsi->bktls", ours, theirs, **options(dtype))


def applied(factor: Factor, matrices: Float[Array, "k batch i o"]) -> Float[Array, "k examples batch t o"]:
    """A factor's vectors times matrices."""
    if isinstance(factor, OneHot):
        batch = jnp.arange(matrices.shape[1])[:, None]
        return matrices[:, batch, factor.index]
    return jnp.einsum("nbti,kbio->knbto", factor, matrices, precision="highest")


def weighted(
    pair: Pair, weights: Float[Array, "batch examples"], used: Bool[Array, " examples"]
) -> Float[Array, "batch left right"]:
    """The weighted sum of gradients, those that are not used left out."""

    def masked(factor: Factor) -> Factor:
        return factor if isinstance(factor, OneHot) else jnp.where(used[:, None, None, None], factor, 0)

    def scaled(factor: Any) -> Array:
        return factor * weights.T[:, :, None, None].astype(factor.dtype)

    left, right = map(masked, pair)
    return summed(left, scaled(right)) if not isinstance(right, OneHot) else summed(scaled(left), right)


def summed(left: Factor, right: Factor) -> Float[Array, "batch left right"]:
    """The sum of outer products over all examples and positions."""
    if isinstance(right, OneHot):
        return jnp.swapaxes(summed(right, left), -1, -2)
    if isinstance(left, OneHot):
        batch = jnp.broadcast_to(jnp.arange(right.shape[1])[None, :, None], left.index.shape)
        zeros = jnp.zeros((right.shape[1], left.size, right.shape[-1]), right.dtype)
        return zeros.at[batch, left.index].add(right)
    return jnp.einsum("nbti,nbto->bio", left, right, precision="highest")
