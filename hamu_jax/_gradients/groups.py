"""Groups of forget examples, one per request: their mean losses and gradients."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._base import device_axes, validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.losses import (
    Batch,
    Loss,
    Partial,
    checked_weights,
    example_weights,
    microbatched,
    named_keys,
    per_example,
    per_example_value_and_grad,
)
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype, ratio


@dataclasses.dataclass(frozen=True)
class Groups:
    """How the examples of a batch fall into groups, one per request.

    Attributes:
      of: `of(batch) -> [batch]`, the number of each example's group, from 0; an example with any other number is in no group.
      count: the number of groups.
      implicit: whether to avoid materialising the groups' gradients: `paired_value_and_grad` then returns an `ImplicitStack`
        instead of `[count, ...]`. Memory is that of two microbatches of factors of gradients (docs/ghost_products.md), or of
        gradients where there are no factors, so give a `microbatch_size`; with `p` microbatches a step differentiates each
        example at most `(p + 1) / 2 + 1` times instead of once. Results are the same up to rounding. The loss must be
        hashable, as functions are. It works on one device only.

    Raises:
      ValueError: if `count` is not a positive whole number.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> loss = lambda w, batch: batch["x"] @ w
      >>> batch = {"x": jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), "owner": jnp.array([0, 0, 1])}
      >>> groups = hamu_jax.Groups(lambda batch: batch["owner"], count=2)
      >>> losses, grads = hamu_jax.paired_value_and_grad(loss, forget_groups=groups)(jnp.ones(2), batch, batch)
      >>> print(losses.forget, grads.forget.tolist())
      [2. 5.] [[2.0, 0.0], [0.0, 5.0]]
    """

    of: Callable[[Any], Int[Array, " batch"]]
    count: int
    implicit: bool = False

    def __post_init__(self) -> None:
        validate.function("of", self.of, "of(batch) -> [batch], the number of each example's group")
        validate.integer("count", self.count)

    def present(self, batch: Batch, weights: Float[Array, " batch"] | None = None) -> Bool[Array, " m"]:
        """Which groups have an example in a batch, of a weight that is not 0: the `forget_present` of a plain stack.

        Args:
          batch: a pytree with a leading example axis.
          weights: `[batch]`. None: every example counts.

        Raises:
          TypeError, ValueError: if `of` does not give a whole number per example.

        >>> Groups(lambda batch: batch, count=3).present(jnp.array([0, 2, 2, -1])).tolist()
        [True, False, True]
        """
        member = _member(batch, self)
        counted = jnp.ones(member.shape) if weights is None else checked_weights("weights", weights, member.shape[0])
        counts = (counted != 0).astype(member.dtype)
        return jax.ops.segment_sum(counts, member, self.count) > 0


def group_means_and_grads(
    loss: Loss, params: Tree, batch: Batch, groups: Groups, weights: Any, *, microbatch_size: int | None
) -> tuple[Float[Array, " m"], Tree]:
    """The mean loss of each group and its gradient, `[m, ...]`; 0 for a group without examples or of padding alone.

    Each example is differentiated once; memory is that of the groups' gradients and of one microbatch of them.
    """
    return stacked(loss, batch, groups, weights, microbatch_size=microbatch_size, axis_name=None)(params)


def stacked(
    loss: Loss, batch: Batch, groups: Groups, weights: Any, *, microbatch_size: int | None, axis_name: AxisName | None
) -> Partial:
    """The mean losses of the groups and their gradients, accumulated over microbatches, as a function of the parameters."""
    member, shares = _membership(loss, batch, groups, weights, axis_name)
    count = groups.count

    def of_microbatch(params: Tree, examples: Any, shares: Array) -> tuple[Array, Tree]:
        batch, member = examples

        def summed(x: Array) -> Array:
            share = shares.astype(accumulation_dtype(x)).reshape(-1, *(1,) * (x.ndim - 1))
            wide = jnp.where(share != 0, share * x.astype(share.dtype), 0.0)  # a weight of 0 also silences a NaN
            return jax.ops.segment_sum(wide, member, count)

        return jax.tree.map(summed, per_example_value_and_grad(loss, params, batch))

    def of_batch(params: Tree) -> tuple[Array, Tree]:
        values, grads = microbatched(of_microbatch, microbatch_size)(params, (batch, member), shares)
        return values, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return of_batch


def implicit(loss: Loss, batch: Batch, groups: Groups, weights: Any, *, microbatch_size: int | None) -> Partial:
    """The mean losses of the groups and a lazy stack of their gradients: nothing is differentiated yet.

    Raises:
      TypeError: if the loss is not hashable: it is part of the stack's type.
    """
    if not isinstance(loss, Hashable):  # pyright: ignore[reportUnnecessaryIsInstance]: a callable need not be
        raise TypeError(f"loss: got an object of type {type(loss).__name__} that is not hashable, expected a hashable one")
    member, shares = _membership(loss, batch, groups, weights)

    def of_microbatch(params: Tree, examples: Any, shares: Array) -> Array:
        return _sums_of_groups(
            per_example(loss, params, examples[0], shares.shape[0], "batch"), examples[1], shares, groups.count
        )

    def of_batch(params: Tree) -> tuple[Array, ImplicitStack]:
        values = microbatched(of_microbatch, microbatch_size)(params, (batch, member), shares)
        return values, ImplicitStack(params, batch, member, shares, loss, groups.count, microbatch_size)

    return of_batch


def group_means(loss: Loss, params: Tree, batch: Batch, groups: Groups) -> Float[Array, " m"]:
    """The mean loss of each group; 0 for a group without examples."""
    member, shares = _membership(loss, batch, groups, None)
    return _sums_of_groups(per_example(loss, params, batch, shares.shape[0], "batch"), member, shares, groups.count)


def _sums_of_groups(values: Float[Array, " batch"], member: Array, shares: Array, count: int) -> Float[Array, " m"]:
    """Shares of values summed by group, in float32 or wider, where a share of 0 also silences a NaN."""
    wide = values.astype(accumulation_dtype(values))
    return jax.ops.segment_sum(jnp.where(shares != 0, shares.astype(wide.dtype) * wide, 0.0), member, count)


def _membership(
    loss: Loss, batch: Batch, groups: Groups, weights: Any, axis_name: AxisName | None = None
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """The group of each example (`count` where it is in none), and its share of its group's mean."""
    member = _member(batch, groups)
    weights = jnp.where(member < groups.count, example_weights(loss, batch, member.shape[0], weights, "forget_weights"), 0.0)
    totals = device_axes.total(jax.ops.segment_sum(weights, member, groups.count + 1), axis_name)
    return member, ratio(weights, totals[member])


def _member(batch: Batch, groups: Groups) -> Int[Array, " batch"]:
    """The group of each example; `count` where it is in none."""
    size = validate.batch("batch", batch)
    with named_keys("batch", batch):
        numbers = validate.real_array("groups", groups.of(batch))
    if jnp.shape(numbers) != (size,):
        raise ValueError(f"groups: got shape {jnp.shape(numbers)}, expected ({size},)")
    if jnp.issubdtype(jnp.result_type(numbers), jnp.inexact):
        raise TypeError(f"groups: got {jnp.result_type(numbers)}, expected whole numbers")
    numbers = jnp.asarray(numbers, jnp.int32)  # an 8-bit number can't be compared with a greater count
    # An index below 0 would count from the end.
    return jnp.where((numbers >= 0) & (numbers < groups.count), numbers, groups.count)
