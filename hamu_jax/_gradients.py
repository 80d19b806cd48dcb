"""Gradients of the retain and of the forget loss."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hamu_jax import _axes, _validate
from hamu_jax._axes import AxisName
from hamu_jax._gram import Tree, accumulation_dtype, ratio

T = TypeVar("T")
Batch: TypeAlias = chex.ArrayTree
Loss: TypeAlias = Callable[[Any, Any], Float[Array, " batch"]]
Partial: TypeAlias = Callable[[Tree], tuple[Float[Array, "..."], Tree]]  # a loss and its gradient; sums over devices are whole


@dataclasses.dataclass(frozen=True)
class Groups:
    """How the examples of a batch fall into groups, one a request.

    Attributes:
      of: `of(batch) -> [batch]`, the number of each example's group, from 0; an example with another number is in none.
      count: how many groups there are.
    """

    of: Callable[[Any], Int[Array, " batch"]]
    count: int

    def __post_init__(self) -> None:
        _validate.integer("count", self.count)


class Paired(NamedTuple, Generic[T]):
    """One value for each of the two objectives."""

    retain: T
    forget: T


class PairedGradient(Protocol):
    """The function that `paired_value_and_grad` returns."""

    def __call__(
        self,
        params: Tree,
        retain_batch: Batch,
        forget_batch: Batch,
        *,
        retain_weights: Float[Array, " retain"] | None = None,
        forget_weights: Float[Array, " forget"] | None = None,
    ) -> tuple[Paired[Float[Array, ""]], Paired[Tree]]:
        """Returns `((retain, forget) losses, (retain, forget) gradients)`."""
        ...


def paired_value_and_grad(
    loss: Loss,
    *,
    forget_loss: Loss | None = None,
    microbatch_size: int | None = None,
    forget_groups: Groups | None = None,
    axis_name: AxisName | None = None,
) -> PairedGradient:
    """The mean losses on a retain and on a forget batch, and their gradients with respect to the parameters.

    Gradient accumulation lives here, because optax wrappers such as `optax.MultiSteps` do not see `forget_grads`.

    Args:
      loss: `loss(params, batch) -> [batch]`, one loss an example. If it has a method `weights(batch) -> [batch]`, as the
        losses of `hamu_jax.objectives` have, these weights enter the mean: 0 leaves a padding example out.
      forget_loss: the loss of the forget batch if it is another one.
      microbatch_size: examples that are differentiated at once, for less memory; the result is the same up to rounding,
        summed in float32 or wider. A last microbatch that is not full is padded with examples of weight 0. None: all.
      forget_groups: the requests that the forget examples belong to: the forget loss is then `[m]`, one mean a group, and
        its gradient `[m, ...]`, for `transform(..., forget_axis=0)`.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis (or axes) over which the batches are split: losses and
        gradients are those of the whole batch, every example counting alike wherever it is, and the same on all devices.

    Returns:
      `f(params, retain_batch, forget_batch, *, retain_weights=None, forget_weights=None)`, which gives
      `((retain, forget) losses, (retain, forget) gradients)` as named tuples. Batches are pytrees with a leading example
      axis; weights are `[batch]`. A batch whose weights are all 0 has loss 0 and gradient 0. It raises ValueError,
      while tracing, for an empty batch, leaves of different lengths, or a loss that does not return `[batch]`.

    Raises:
      ValueError: if `microbatch_size` is not a positive whole number.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> loss = lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2
      >>> batch = {"x": jnp.eye(2), "y": jnp.array([1.0, 2.0])}
      >>> losses, grads = hamu_jax.paired_value_and_grad(loss)(jnp.zeros(2), batch, batch)
      >>> print(losses.retain, grads.forget)
      2.5 [-1. -2.]
    """
    if microbatch_size is not None:
        _validate.integer("microbatch_size", microbatch_size)
    _validate.axis_name("axis_name", axis_name)
    partials = paired_partials(
        loss, forget_loss=forget_loss, microbatch_size=microbatch_size, forget_groups=forget_groups, axis_name=axis_name
    )

    def paired(params: Tree, retain_batch: Batch, forget_batch: Batch, **weights: Any) -> tuple[Paired[Array], Paired[Tree]]:
        _axes.check("axis_name", axis_name)
        own = _axes.own(params, axis_name)
        parts = partials(retain_batch, forget_batch, **weights)
        retain, forget = (_axes.total(part(own), axis_name) for part in parts)
        return Paired(retain[0], forget[0]), Paired(retain[1], forget[1])

    return paired


def paired_partials(
    loss: Loss,
    *,
    forget_loss: Loss | None,
    microbatch_size: int | None,
    forget_groups: Groups | None,
    axis_name: AxisName | None,
) -> Callable[..., Paired[Partial]]:
    """What `paired_value_and_grad` sums over devices: `f(retain_batch, forget_batch, ...)` gives a function of each objective.

    The totals of the examples' weights are summed over `axis_name` at once, so that the functions themselves hold no
    communication: they may be called on some devices only.
    """
    of_forget = loss if forget_loss is None else forget_loss
    shared: dict[str, Any] = {"microbatch_size": microbatch_size, "axis_name": axis_name}

    def partials(
        retain_batch: Batch,
        forget_batch: Batch,
        *,
        retain_weights: Float[Array, " retain"] | None = None,
        forget_weights: Float[Array, " forget"] | None = None,
    ) -> Paired[Partial]:
        retain = _mean_and_grad(loss, retain_batch, retain_weights, name="retain_batch", **shared)
        if forget_groups is None:
            return Paired(retain, _mean_and_grad(of_forget, forget_batch, forget_weights, name="forget_batch", **shared))
        return Paired(retain, _group_means_and_grads(of_forget, forget_batch, forget_groups, forget_weights, **shared))

    return partials


def check_data(name: str, data: Batch, loss: Loss, params: Tree) -> int:
    """Checks concrete data, its labels too if the loss can (`loss.check`); returns the number of examples."""
    size = _validate.batch(name, data)
    check = getattr(loss, "check", None)
    if check is not None:
        check(params, data, name)
    return size


def example_weights(loss: Loss, batch: Batch, size: int, given: Float[Array, " batch"] | None) -> Float[Array, " batch"]:
    """The weight of each example in a mean: the caller's times the loss's own (its padding)."""
    dtype = jnp.result_type(float)
    weights = jnp.ones(size, dtype) if given is None else jnp.asarray(given, dtype)
    own = getattr(loss, "weights", None)
    return weights if own is None else weights * own(batch).astype(dtype)


def per_example(loss: Loss, params: Tree, batch: Batch, size: int, name: str) -> Float[Array, " batch"]:
    """`loss(params, batch)`, checked to be one number an example."""
    values = loss(params, batch)
    if jnp.shape(values) != (size,):
        raise ValueError(
            f"loss: got a result of shape {jnp.shape(values)} for {name} of {size} examples, "
            f"expected ({size},): one loss an example"
        )
    return values


def weighted_sum(values: Float[Array, " batch"], weights: Float[Array, " batch"]) -> Float[Array, ""]:
    """`sum_i w_i v_i`, in float32 or wider, where a weight of 0 also silences a NaN."""
    wide = values.astype(accumulation_dtype(values))
    return jnp.sum(jnp.where(weights != 0, weights.astype(wide.dtype) * wide, 0.0))


def mean_loss(loss: Loss, params: Tree, batch: Batch, name: str) -> Float[Array, ""]:
    """The weighted mean loss of a batch, as `paired_value_and_grad` has it."""
    shares = _shares(loss, batch, None, name)
    return weighted_sum(per_example(loss, params, batch, shares.shape[0], name), shares)


def _shares(loss: Loss, batch: Batch, given: Any, name: str, axis_name: AxisName | None = None) -> Float[Array, " batch"]:
    """What each example counts in the mean; all 0 where all weights are."""
    size = _validate.batch(name, batch)
    weights = example_weights(loss, batch, size, given)
    total = _axes.total(jnp.sum(weights), axis_name)
    return weights / jnp.where(total > 0, total, 1.0)


def _mean_and_grad(
    loss: Loss, batch: Batch, given: Any, *, microbatch_size: int | None, name: str, axis_name: AxisName | None
) -> Partial:
    """The weighted mean loss and its gradient, accumulated over microbatches."""
    shares = _shares(loss, batch, given, name, axis_name)

    def part(params: Tree, batch: Batch, shares: Array) -> Array:
        return weighted_sum(per_example(loss, params, batch, shares.shape[0], name), shares)

    def wide(params: Tree, batch: Batch, shares: Array) -> tuple[Array, Tree]:
        value, grads = jax.value_and_grad(part)(params, batch, shares)
        return value, jax.tree.map(lambda g: g.astype(accumulation_dtype(g)), grads)

    def whole(params: Tree) -> tuple[Array, Tree]:
        value, grads = microbatched(wide, microbatch_size)(params, batch, shares)
        return value, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return whole


def group_means_and_grads(
    loss: Loss, params: Tree, batch: Batch, groups: Groups, given: Any, *, microbatch_size: int | None
) -> tuple[Float[Array, " m"], Tree]:
    """The mean loss of each group and its gradient, `[m, ...]`; 0 for a group without examples or of padding alone.

    Each example is differentiated once; memory is that of the groups' gradients and of one microbatch of them.
    """
    return _group_means_and_grads(loss, batch, groups, given, microbatch_size=microbatch_size, axis_name=None)(params)


def _group_means_and_grads(
    loss: Loss, batch: Batch, groups: Groups, given: Any, *, microbatch_size: int | None, axis_name: AxisName | None
) -> Partial:
    """The mean losses of the groups and their gradients, accumulated over microbatches."""
    member, shares = _membership(loss, batch, groups, given, axis_name)
    count = groups.count

    def some(params: Tree, examples: Any, shares: Array) -> tuple[Array, Tree]:
        batch, member = examples

        def summed(x: Array) -> Array:
            share = shares.astype(accumulation_dtype(x)).reshape(-1, *(1,) * (x.ndim - 1))
            wide = jnp.where(share != 0, share * x.astype(share.dtype), 0.0)  # a weight of 0 also silences a NaN
            return jax.ops.segment_sum(wide, member, count)

        return jax.tree.map(summed, per_example_value_and_grad(loss, params, batch))

    def whole(params: Tree) -> tuple[Array, Tree]:
        values, grads = microbatched(some, microbatch_size)(params, (batch, member), shares)
        return values, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return whole


def group_means(loss: Loss, params: Tree, batch: Batch, groups: Groups) -> Float[Array, " m"]:
    """The mean loss of each group; 0 for a group without examples."""
    member, shares = _membership(loss, batch, groups, None)
    values = per_example(loss, params, batch, shares.shape[0], "batch")
    wide = values.astype(accumulation_dtype(values))
    return jax.ops.segment_sum(jnp.where(shares != 0, shares.astype(wide.dtype) * wide, 0.0), member, groups.count)


def _membership(
    loss: Loss, batch: Batch, groups: Groups, given: Any, axis_name: AxisName | None = None
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """The group of each example (`count` where it is in none), and what it counts in its group's mean."""
    size = _validate.batch("batch", batch)
    numbers = groups.of(batch)
    if jnp.shape(numbers) != (size,):
        raise ValueError(f"groups: got shape {jnp.shape(numbers)}, expected ({size},)")
    if jnp.issubdtype(jnp.result_type(numbers), jnp.inexact):
        raise TypeError(f"groups: got {jnp.result_type(numbers)}, expected whole numbers")
    numbers = jnp.asarray(numbers, jnp.int32)  # an 8-bit number can't be compared with a greater count
    # An index below 0 would count from the end.
    member = jnp.where((numbers >= 0) & (numbers < groups.count), numbers, groups.count)
    weights = example_weights(loss, batch, size, given)
    totals = _axes.total(jax.ops.segment_sum(weights, member, groups.count + 1), axis_name)
    return member, ratio(weights, totals[member])


def per_example_value_and_grad(loss: Loss, params: Tree, examples: Batch) -> tuple[Float[Array, " batch"], Tree]:
    """`vmap(value_and_grad)` over examples."""

    def one(params: Tree, example: Batch) -> Array:
        return per_example(loss, params, jax.tree.map(lambda x: x[None], example), 1, "one example")[0]

    each = jax.vmap(jax.value_and_grad(one), in_axes=(None, 0))
    return _axes.by_device(each, _validate.batch("batch", examples))(params, examples)


def microbatched(
    function: Callable[[Tree, Batch, Array], Any],
    microbatch_size: int | None,
    accumulate: optax.microbatching.AccumulationType = optax.microbatching.AccumulationType.SUM,
) -> Callable[[Tree, Batch, Float[Array, " batch"]], Any]:
    """`function(params, batch, weights)` a microbatch at a time; the last is filled up with examples of weight 0."""

    def run(params: Tree, batch: Batch, weights: Float[Array, " batch"]) -> Any:
        size = weights.shape[0]
        if microbatch_size is None or microbatch_size >= size:
            return function(params, batch, weights)
        extra = -size % microbatch_size
        split = optax.microbatching.microbatch(
            function, argnums=(1, 2), microbatch_size=microbatch_size, accumulator=accumulate
        )
        return split(params, pad(batch, extra), jnp.pad(weights, (0, extra)))

    return run


def pad(batch: Any, extra: int) -> Any:
    """Repeats the first example `extra` times at the end: finite whenever the batch is."""
    if extra == 0:
        return batch
    return jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[:1], extra, axis=0)]), batch)
