"""Inner products of many objectives' gradients, two microbatches of examples at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hamu_jax._gradients.losses import Batch, Loss, pad, per_example_value_and_grad
from hamu_jax._kernel.blocks import Partition
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype, cross_gram, weighted_rows


class Examples(NamedTuple):
    """Examples, with the objective that each belongs to and its share of it.

    Attributes:
      batch: the examples.
      member: `[batch]`, the number of the example's objective; the number of objectives (or more) leaves the example out.
      shares: `[batch]`, its weight in that objective; 0 leaves it out, even if its gradient is NaN.
    """

    batch: Batch
    member: Int[Array, " batch"]
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
) -> Products:
    """The Gram matrix `S^T K S` of `count` weighted sums of examples' gradients, and their products with other rows.

    `K` is the matrix of inner products of the examples' gradients, `S` their shares. Only the block of `K` between two
    microbatches is formed at a time, for each pair of microbatches once, and added to the objectives' products. With `p`
    microbatches each example is differentiated `(p + 1) / 2` times on average; two microbatches of gradients are in memory.
    """
    microbatches, number = _microbatches(examples, count, microbatch_size)
    dtype, blocks = accumulation_dtype(params), len(partition.labels)
    rows = [jax.tree.leaves(stack)[0].shape[0] for stack in others]

    def microbatch(i: Array) -> Examples:
        return jax.tree.map(lambda x: x[i], microbatches)

    def visit(i: Array, total: Products) -> Products:
        left = microbatch(i)
        grads = each_grad(loss, params, left.batch)

        def pair(j: Array, gram: Array) -> Array:
            right = microbatch(j)
            return _add(gram, left, right, cross_gram(grads, each_grad(loss, params, right.batch), partition))

        gram = _add(total.gram, left, left, 0.5 * cross_gram(grads, grads, partition))  # half: its transpose is added below
        cross = [
            _add_columns(sums, left, cross_gram(stack, grads, partition))
            for sums, stack in zip(total.cross, others, strict=True)
        ]
        return Products(jax.lax.fori_loop(i + 1, number, pair, gram), cross)

    zeros = Products(jnp.zeros((blocks, count, count), dtype), [jnp.zeros((blocks, k, count), dtype) for k in rows])
    total = jax.lax.fori_loop(0, number, visit, zeros)
    return total._replace(gram=total.gram + jnp.swapaxes(total.gram, -1, -2))


def each_grad(loss: Loss, params: Tree, batch: Batch) -> Tree:
    """`vmap(grad)` over examples, all at once."""
    return per_example_value_and_grad(loss, params, batch)[1]


def weighted_each_grad(
    loss: Loss, params: Tree, examples: Examples, coefficients: Float[Array, "blocks m"], partition: Partition
) -> Tree:
    """The sum of the objectives' gradients with a coefficient per block, in float32 or wider."""
    used = examples.shares != 0

    def wide(g: Array) -> Array:
        return jnp.where(used.reshape(-1, *(1,) * (g.ndim - 1)), g.astype(accumulation_dtype(params)), 0.0)

    grads = jax.tree.map(wide, each_grad(loss, params, examples.batch))
    weights = jnp.take(coefficients, examples.member, axis=1, mode="fill", fill_value=0)
    return weighted_rows([grads], weights * examples.shares.astype(weights.dtype)[None, :], partition)


def _microbatches(examples: Examples, count: int, microbatch_size: int | None) -> tuple[Examples, int]:
    """The examples as `[number, width, ...]`, the last microbatch filled up with examples that count nothing; and `number`."""
    size = examples.member.shape[0]
    width = size if microbatch_size is None else min(microbatch_size, size)
    number = -(-size // width)
    extra = number * width - size
    member = jnp.pad(examples.member, (0, extra), constant_values=count)
    filled = Examples(pad(examples.batch, extra), member, jnp.pad(examples.shares, (0, extra)))
    return jax.tree.map(lambda x: jnp.asarray(x).reshape(number, width, *x.shape[1:]), filled), number


def _add(gram: Array, left: Examples, right: Examples, inner: Float[Array, "blocks k l"]) -> Array:
    """Adds the products of two microbatches to the products of their objectives."""
    shares = left.shares[:, None] * right.shares[None, :]
    return gram.at[:, left.member[:, None], right.member[None, :]].add(_weighted(inner, shares[None]), mode="drop")


def _add_columns(sums: Array, right: Examples, inner: Float[Array, "blocks k l"]) -> Array:
    """Adds the products of a microbatch with other rows to the products of its objectives."""
    return sums.at[:, :, right.member].add(_weighted(inner, right.shares[None, None]), mode="drop")


def _weighted(inner: Array, shares: Array) -> Array:
    """Shares times products, where a share of 0 also silences a NaN."""
    return jnp.where(shares != 0, shares.astype(inner.dtype) * inner, 0.0)
