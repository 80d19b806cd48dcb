"""Operations on an `ImplicitStack`: its inner products, its weighted sums, and its rows' products with one direction."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hamu_jax._gradients.gram_of_examples import Examples, Products, products, weighted_each_grad
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.losses import microbatched
from hamu_jax._gradients.per_example import directional
from hamu_jax._kernel.blocks import Partition
from hamu_jax._kernel.inner_products import Tree


def stack_products(stack: ImplicitStack, others: Sequence[Tree], partition: Partition) -> Products:
    """Inner products of the rows with each other, and with the rows of explicit stacks."""
    examples = Examples(stack.batch, stack.member, stack.shares)
    return products(
        stack.loss,
        stack.params,
        examples,
        stack.count,
        partition=partition,
        microbatch_size=stack.microbatch_size,
        others=others,
    )


def stack_sum(stack: ImplicitStack, coefficients: Float[Array, "blocks m"], partition: Partition) -> Tree:
    """The weighted sum of the rows, in float32 or wider: every example is differentiated once more."""

    def of_microbatch(params: Tree, examples: Any, shares: Array) -> Tree:
        batch, member = examples
        return weighted_each_grad(stack.loss, params, Examples(batch, member, shares), coefficients, partition)

    return microbatched(of_microbatch, stack.microbatch_size)(stack.params, (stack.batch, stack.member), stack.shares)


def stack_changes(stack: ImplicitStack, direction: Tree) -> Float[Array, " m"]:
    """`<row_i, direction>` for every row, by forward-mode differentiation: the cost is about two forward passes."""
    along = directional(stack.loss, stack.params, stack.batch, direction, stack.microbatch_size)
    shares = stack.shares.astype(along.dtype)
    return jax.ops.segment_sum(jnp.where(shares != 0, shares * along, 0.0), stack.member, stack.count)
