"""Per-example gradients, their inner products, and their products with one direction, which need no gradient per example."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hamu_jax._base import validate
from hamu_jax._gradients.gram_of_examples import Examples, products, squared_norms
from hamu_jax._gradients.groups import Groups, group_means_and_grads
from hamu_jax._gradients.losses import (
    Batch,
    Loss,
    microbatched,
    per_example,
    per_example_value_and_grad,
    weighted_sum,
)
from hamu_jax._kernel.blocks import Blocks, partition
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype, cross_gram

_EACH = optax.microbatching.AccumulationType.CONCAT


def per_example_grads(loss: Loss, params: Tree, batch: Batch, microbatch_size: int | None = None) -> Tree:
    """The gradient of every example's loss: `vmap(grad)`, one microbatch at a time.

    The result holds one gradient per example; beside it, there is one microbatch of temporaries and a rearranged copy of the
    batch. For inner products alone use `gram` or `directional`, which never hold all gradients.

    Args:
      loss: `loss(params, batch) -> [batch]`, where no example's loss depends on another example.
      params: the parameters.
      batch: a pytree with a leading example axis.
      microbatch_size: examples differentiated at once. None: all.

    Returns:
      A pytree like `params` with a leading axis `[batch]`.

    Raises:
      ValueError: for an empty batch, leaves of different lengths, or a microbatch size that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> print(per_example_grads(lambda w, x: (x - w) ** 2, jnp.array(1.0), jnp.array([2.0, 3.0])))
      [-2. -4.]

    Source: docs/mathematics.md, section 6.
    """
    size = _checked(loss, batch, microbatch_size)

    def of_microbatch(params: Tree, examples: Batch, _: Array) -> Tree:
        return per_example_value_and_grad(loss, params, examples)[1]

    grads = microbatched(of_microbatch, microbatch_size, _EACH)(params, batch, jnp.ones(size))
    return jax.tree.map(lambda x: x[:size], grads)


def directional(
    loss: Loss, params: Tree, batch: Batch, direction: Tree, microbatch_size: int | None = None
) -> Float[Array, " batch"]:
    """`<g_i, v>` for every example `i`: the change of its loss, per unit of step, along one direction.

    Computed by forward-mode differentiation: the cost is about two forward passes, and no per-example gradient is formed.
    A model that defines its own backward pass only (`jax.custom_vjp`) has no forward mode: JAX raises TypeError.

    Args:
      loss: `loss(params, batch) -> [batch]`.
      params: the parameters.
      batch: a pytree with a leading example axis.
      direction: `v`, a pytree like `params`.
      microbatch_size: examples evaluated at once. None: all.

    Returns:
      `[batch]`.

    Raises:
      ValueError: as `per_example_grads`, or if `direction` differs from `params`, naming the first path.

    Example:
      >>> import jax.numpy as jnp
      >>> print(directional(lambda w, x: (x - w) ** 2, jnp.array(1.0), jnp.array([2.0, 3.0]), jnp.array(0.5)))
      [-1. -2.]

    Source: docs/mathematics.md, section 6.
    """
    size = _checked(loss, batch, microbatch_size)
    validate.gradients("direction", direction)
    validate.same_structure("direction", direction, "params", params)

    def of_microbatch(params: Tree, examples: Batch, weights: Array) -> Array:
        tangent = jax.tree.map(lambda v, p: v.astype(p.dtype), direction, params)
        losses = lambda p: per_example(loss, p, examples, weights.shape[0], "batch")  # noqa: E731
        return jax.jvp(losses, (params,), (tangent,))[1]

    return microbatched(of_microbatch, microbatch_size, _EACH)(params, batch, jnp.ones(size))[:size]


def weighted_grad(
    loss: Loss, params: Tree, batch: Batch, weights: Float[Array, " batch"], microbatch_size: int | None = None
) -> Tree:
    """`sum_i w_i g_i`: the adjoint of `directional`, one weighted backward pass.

    Args:
      loss: `loss(params, batch) -> [batch]`.
      params: the parameters.
      batch: a pytree with a leading example axis.
      weights: `[batch]`, of any sign.
      microbatch_size: examples differentiated at once. None: all.

    Returns:
      A pytree like `params`.

    Raises:
      ValueError: as `per_example_grads`, or if `weights` is not `[batch]`.

    Source: docs/mathematics.md, section 6.
    """
    size = _checked(loss, batch, microbatch_size)
    weights = jnp.asarray(validate.real_array("weights", weights))
    if weights.shape != (size,):
        raise ValueError(f"weights: got shape {weights.shape}, expected ({size},)")

    def of_microbatch(params: Tree, examples: Batch, weights: Array) -> Tree:
        grads = jax.grad(lambda p: weighted_sum(per_example(loss, p, examples, weights.shape[0], "batch"), weights))(params)
        return jax.tree.map(lambda g: g.astype(accumulation_dtype(g)), grads)

    summed = microbatched(of_microbatch, microbatch_size)(params, batch, weights)
    return jax.tree.map(lambda g, p: g.astype(p.dtype), summed, params)


def per_example_norms(
    loss: Loss, params: Tree, batch: Batch, *, blocks: Blocks = "global", microbatch_size: int | None = None
) -> Float[Array, "blocks batch"]:
    """`|g_i|` for every example: the square root of the diagonal of `gram`, without the rest of it.

    The gradient of a weight matrix is formed only where that is cheaper than products of what enters and leaves it
    (docs/ghost_products.md), for one microbatch at a time.

    Args:
      loss: `loss(params, batch) -> [batch]`.
      params: the parameters.
      batch: a pytree with a leading example axis.
      blocks: as in `hamu_jax.transform`.
      microbatch_size: examples differentiated at once. None: all.

    Returns:
      `[blocks, batch]`, in float32 or wider.

    Raises:
      ValueError: as `per_example_grads`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(per_example_norms(lambda w, x: (x - w) ** 2, jnp.array(1.0), jnp.array([2.0, 3.0])))
      [[2. 4.]]

    Source: docs/mathematics.md, section 6.
    """
    _checked(loss, batch, microbatch_size)
    validate.gradients("params", params, some=True)
    split = partition(params, blocks)
    squares = squared_norms(loss, params, batch, partition=split, microbatch_size=microbatch_size)
    return jnp.sqrt(jnp.maximum(squares, 0.0)).T


def gram(
    loss: Loss,
    params: Tree,
    batch: Batch,
    *,
    groups: Int[Array, " batch"] | None = None,
    num_groups: int | None = None,
    blocks: Blocks = "global",
    microbatch_size: int | None = None,
) -> Float[Array, "blocks m m"]:
    """Inner products of the gradients of many objectives, one per example or one per group of examples.

    Without groups, the gradient of a weight matrix is formed only where that is cheaper than products of what enters and leaves
    it (docs/ghost_products.md). All pairs of `p = ceil(m / microbatch_size)` microbatches are visited: what two of them need is
    in memory at a time, and each example is differentiated once, or `(p + 1) / 2` times on average where keeping what its
    products need would take more memory than the result. With groups, one mean gradient per group is in memory, and each
    example is differentiated once.

    Args:
      loss: `loss(params, batch) -> [batch]`.
      params: the parameters.
      batch: a pytree with a leading example axis.
      groups: a group number from 0 for each example (a deletion request, the retain set, a protected group); the
        objective is the mean loss of the group, as `paired_value_and_grad` has it: without padding. A number that is
        no group's, -1 for example, leaves the example out.
      num_groups: how many groups there are.
      blocks: as in `hamu_jax.transform`.
      microbatch_size: examples differentiated at once. None: all.

    Returns:
      `[blocks, m, m]`, `m` the number of examples or of groups, in float32 or wider. Rows are gradients of the losses as
      they are: no sign is flipped.

    Raises:
      ValueError: as `per_example_grads`, or if `groups` comes without `num_groups`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(gram(lambda w, x: (x - w) ** 2, jnp.array(1.0), jnp.array([2.0, 3.0])))
      [[[ 4.  8.]
        [ 8. 16.]]]

    Source: docs/mathematics.md, sections 5 and 6.
    """
    size = _checked(loss, batch, microbatch_size)
    validate.gradients("params", params, some=True)
    split = partition(params, blocks)
    if groups is not None:
        means = group_grads(loss, params, batch, groups, num_groups=num_groups, microbatch_size=microbatch_size)
        return cross_gram(means, means, split)
    each = Examples(batch, None, jnp.ones(size))
    return products(loss, params, each, size, partition=split, microbatch_size=microbatch_size).gram


def group_grads(
    loss: Loss,
    params: Tree,
    batch: Batch,
    groups: Int[Array, " batch"],
    *,
    num_groups: int | None,
    microbatch_size: int | None = None,
) -> Tree:
    """The mean gradient of each group, `[num_groups, ...]`; 0 for a group without examples or of padding alone.

    Each example is differentiated once; memory is that of `num_groups` gradients and of one microbatch of them.

    Raises:
      ValueError: as `per_example_grads`, if `groups` is not `[batch]`, or if `num_groups` is missing.
    """
    _checked(loss, batch, microbatch_size)
    if num_groups is None:
        raise ValueError("num_groups: got None, expected how many groups there are, since `groups` was given")
    validate.integer("num_groups", num_groups)
    numbered = Groups(lambda _: groups, num_groups)
    return group_means_and_grads(loss, params, batch, numbered, None, microbatch_size=microbatch_size)[1]


def _checked(loss: Loss, batch: Batch, microbatch_size: int | None) -> int:
    """The number of examples of a valid batch."""
    validate.function("loss", loss, "loss(params, batch) -> [batch]")
    if microbatch_size is not None:
        validate.integer("microbatch_size", microbatch_size)
    return validate.batch("batch", batch)
