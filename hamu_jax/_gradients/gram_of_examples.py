"""Inner products of many objectives' gradients, two microbatches of examples at a time."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hamu_jax._gradients.factored.gradients import Gradients, How, example_gradients
from hamu_jax._gradients.losses import Batch, Loss, microbatched, pad
from hamu_jax._kernel.blocks import Partition
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype

T = TypeVar("T")

TILE = 256  # examples whose products with as many others are computed at a time, if all are differentiated at once


class Examples(NamedTuple):
    """Examples, with the objective that each belongs to and its share of it.

    Attributes:
      batch: the examples.
      member: `[batch]`, the number of the example's objective; the number of objectives (or more) leaves the example out. None
        where every example is an objective of its own.
      shares: `[batch]`, its weight in that objective; 0 leaves it out, even if its gradient is NaN.
    """

    batch: Batch
    member: Int[Array, " batch"] | None
    shares: Float[Array, " batch"]


class Products(NamedTuple):
    """Inner products of `m` objectives' gradients.

    Attributes:
      gram: `[blocks, m, m]`, the products of these gradients with each other.
      cross: `[blocks, k, m]` for each other stack of `k` rows, the products of its rows with these gradients.
    """

    gram: Float[Array, "blocks m m"]
    cross: list[Float[Array, "blocks k m"]]


def products(
    loss: Loss,
    params: Tree,
    examples: Examples,
    count: int,
    *,
    partition: Partition,
    microbatch_size: int | None,
    others: Sequence[Tree] = (),
    how: How = "cheapest",
) -> Products:
    """The Gram matrix `S^T K S` of `count` weighted sums of examples' gradients, and their products with other rows.

    `K` is the matrix of inner products of the examples' gradients, `S` their shares. Only a tile of `K`, between two
    microbatches, is formed at a time, for each pair of microbatches once, and added to the objectives' products. Where what the
    products need of all examples is no larger than `K` it is kept, and each example is differentiated once; otherwise, with `p`
    microbatches, `(p + 1) / 2` times on average, and two microbatches are in memory.
    """
    size = examples.shares.shape[0]
    width = _width(size, microbatch_size)
    number = -(-size // width)
    filled = _filled(examples, count, number * width - size)
    tiles = _tiles(filled, width)
    dtype, blocks = accumulation_dtype(params), len(partition.labels)
    rows = [jax.tree.leaves(stack)[0].shape[0] for stack in others]
    padded = count if examples.member is not None else number * width

    def computed(batch: Batch) -> Gradients:
        return example_gradients(loss, params, batch, partition, how)

    gradients = _by_tile(computed, filled.batch, width, at_once=microbatch_size is None)

    def visit(i: Array | int, total: Products) -> Products:
        left, grads = _tile(tiles, i), gradients(i)

        def pair(j: Array, gram: Array) -> Array:
            return _add(gram, (left, i), (_tile(tiles, j), j), grads.products(gradients(j), partition))

        # Half, since its transpose is added below.
        gram = _add(total.gram, (left, i), (left, i), 0.5 * grads.products(grads, partition))
        cross = [
            _add_columns(sums, left, i, grads.against(stack, partition))
            for sums, stack in zip(total.cross, others, strict=True)
        ]
        return Products(gram if number == 1 else jax.lax.fori_loop(i + 1, number, pair, gram), cross)

    zeros = Products(jnp.zeros((blocks, padded, padded), dtype), [jnp.zeros((blocks, k, padded), dtype) for k in rows])
    total = visit(0, zeros) if number == 1 else jax.lax.fori_loop(0, number, visit, zeros)
    gram = (total.gram + jnp.swapaxes(total.gram, -1, -2))[:, :count, :count]
    return Products(gram, [sums[:, :, :count] for sums in total.cross])


def squared_norms(
    loss: Loss, params: Tree, batch: Batch, *, partition: Partition, microbatch_size: int | None, how: How = "cheapest"
) -> Float[Array, "batch blocks"]:
    """The squared norm of every example's gradient, one microbatch at a time."""

    def of_microbatch(params: Tree, examples: Batch, _: Array) -> Array:
        return example_gradients(loss, params, examples, partition, how).squares(partition).T

    size = jax.tree.leaves(batch)[0].shape[0]
    concatenate = optax.microbatching.AccumulationType.CONCAT
    return microbatched(of_microbatch, microbatch_size, concatenate)(params, batch, jnp.ones(size))[:size]


def weighted_each_grad(
    loss: Loss,
    params: Tree,
    examples: Examples,
    coefficients: Float[Array, "blocks m"],
    partition: Partition,
    *,
    how: How = "cheapest",
) -> Tree:
    """The sum of the objectives' gradients with a coefficient per block, in float32 or wider."""
    member = jnp.arange(examples.shares.shape[0]) if examples.member is None else examples.member
    weights = jnp.take(coefficients, member, axis=1, mode="fill", fill_value=0)
    shares = examples.shares.astype(weights.dtype)[None, :]
    shares = jnp.where(shares != 0, shares * weights, 0.0)
    return example_gradients(loss, params, examples.batch, partition, how).weighted_sum(shares, params, partition)


def _width(size: int, microbatch_size: int | None) -> int:
    """How many examples' products are computed at a time: a microbatch, or a tile of all, since half the tiles are enough."""
    if microbatch_size is not None:
        return min(microbatch_size, size)
    return -(-size // -(-size // TILE))


def _filled(examples: Examples, count: int, extra: int) -> Examples:
    """The examples, filled up with some that count nothing."""
    member = None if examples.member is None else jnp.pad(examples.member, (0, extra), constant_values=count)
    return Examples(pad(examples.batch, extra), member, jnp.pad(examples.shares, (0, extra)))


def _tiles(tree: T, width: int) -> T:
    """Every array as `[number, width, ...]`."""
    return jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, width, *x.shape[1:]), tree)


def _tile(tree: T, i: Array | int) -> T:
    """One of the tiles."""
    return jax.tree.map(lambda x: x[i], tree)


def _by_tile(
    computed: Callable[[Batch], Gradients], batch: Batch, width: int, *, at_once: bool
) -> Callable[[Array | int], Gradients]:
    """The gradients of each tile: all computed before, at once or where they are small, or whenever they are asked for."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if size == width:
        return lambda _: computed(batch)
    tiles = _tiles(batch, width)
    if at_once:
        every = _tiles(computed(batch), width)
        return lambda i: _tile(every, i)
    numbers = sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: computed(_tile(tiles, 0)))))
    if size // width * numbers > size**2:
        return lambda i: computed(_tile(tiles, i))
    every = jax.lax.map(computed, tiles)
    return lambda i: _tile(every, i)


def _add(gram: Array, left: tuple[Examples, Any], right: tuple[Examples, Any], inner: Float[Array, "blocks k l"]) -> Array:
    """Adds the products of two tiles, with their numbers, to the products of their objectives."""
    (ours, i), (theirs, j) = left, right
    weighted = _weighted(inner, (ours.shares[:, None] * theirs.shares[None, :])[None])
    if ours.member is None or theirs.member is None:
        return jax.lax.dynamic_update_slice(gram, weighted, (0, i * inner.shape[1], j * inner.shape[2]))
    return gram.at[:, ours.member[:, None], theirs.member[None, :]].add(weighted, mode="drop")


def _add_columns(sums: Array, right: Examples, i: Any, inner: Float[Array, "blocks k l"]) -> Array:
    """Adds the products of a tile, with its number, with other rows to the products of its objectives."""
    weighted = _weighted(inner, right.shares[None, None])
    if right.member is None:
        return jax.lax.dynamic_update_slice(sums, weighted, (0, 0, i * inner.shape[2]))
    return sums.at[:, :, right.member].add(weighted, mode="drop")


def _weighted(inner: Array, shares: Array) -> Array:
    """Shares times products, where a share of 0 also silences a NaN."""
    return jnp.where(shares != 0, shares.astype(inner.dtype) * inner, 0.0)
