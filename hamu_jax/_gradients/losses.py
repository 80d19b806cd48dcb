"""Losses of examples, their means, and the gradients of the means, one microbatch at a time."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype

Batch: TypeAlias = chex.ArrayTree
Loss: TypeAlias = Callable[[Any, Any], Float[Array, " batch"]]
Partial: TypeAlias = Callable[[Tree], tuple[Float[Array, "..."], Any]]  # a loss and its gradient, this device's share of both

ROWS = 65536  # examples that are checked at a time, of data that may not be in memory


def check_data(name: str, data: Batch, loss: Loss, params: Tree) -> int:
    """Checks concrete data, its labels too if the loss can (`loss.check`); returns the number of examples."""
    size = validate.batch(name, data)
    check = getattr(loss, "check", None)
    if check is not None:
        with named_keys(name, data):
            check(params, data, name)
    return size


@contextlib.contextmanager
def named_keys(name: str, batch: Batch) -> Generator[None]:
    """Turns a `KeyError` for a key that a batch lacks into an error that names the batch."""
    try:
        yield
    except KeyError as error:
        key = error.args[0] if error.args else None
        if not isinstance(batch, Mapping) or key in batch:
            raise
        keys = ", ".join(map(repr, batch))
        raise ValueError(f"{name}: got the keys {keys}, expected {key!r} too, which is read from it or from params") from error


def check_counted(name: str, data: Batch, loss: Loss) -> None:
    """Checks that not all examples are padding; it stops at the first that is not."""
    size = validate.batch(name, data)
    if getattr(loss, "weights", None) is None:
        return
    for begin in range(0, size, ROWS):
        rows = jax.tree.map(lambda x, begin=begin: x[begin : begin + ROWS], data)
        if jnp.any(example_weights(loss, rows, min(ROWS, size - begin), None) != 0):
            return
    raise ValueError(f"{name}: got {size} examples of weight 0 (all their labels are padding), expected one that counts")


def example_weights(
    loss: Loss, batch: Batch, size: int, weights: Float[Array, " batch"] | None, name: str = "weights"
) -> Float[Array, " batch"]:
    """The weight of each example in a mean: the caller's weight times that of the loss, which is 0 for padding.

    Raises:
      TypeError, ValueError: for weights that are not one real number of at least 0 per example. Traced ones that are negative
        become NaN, and so do all sums that they enter.
    """
    weights = jnp.ones(size, jnp.result_type(float)) if weights is None else checked_weights(name, weights, size)
    weights_of_loss = getattr(loss, "weights", None)
    if weights_of_loss is None:
        return weights
    with named_keys("batch", batch):
        return weights * checked_weights("loss.weights", weights_of_loss(batch), size)


def checked_weights(name: str, weights: Any, size: int) -> Float[Array, " batch"]:
    """Weights of examples as the default float, after the checks of `example_weights`."""
    dtype, weights = jnp.result_type(float), validate.real_array(name, weights)
    if weights.shape != (size,):
        raise ValueError(f"{name}: got shape {weights.shape}, expected ({size},): one weight per example")
    if isinstance(weights, Tracer):
        numbers = weights.astype(dtype)
        return jnp.where(numbers >= 0, numbers, jnp.nan)
    concrete = np.asarray(weights).astype(np.float64)
    if wrong := np.flatnonzero(~((concrete >= 0) & np.isfinite(concrete))).tolist():
        raise ValueError(f"{name}[{wrong[0]}]: got {concrete[wrong[0]]}, expected a finite number of at least 0")
    return jnp.asarray(weights, dtype)


def per_example(
    loss: Loss, params: Tree, batch: Batch, size: int, name: str, *, function: str = "loss"
) -> Float[Array, " batch"]:
    """`loss(params, batch)`, checked to be one number per example; the error names the argument `function`."""
    with named_keys(name, batch):
        values = loss(params, batch)
    if jnp.shape(values) != (size,):
        raise ValueError(
            f"{function}: got a result of shape {jnp.shape(values)} for {name} of {size} examples, "
            f"expected ({size},): one {'loss' if function == 'loss' else 'number'} per example"
        )
    if function == "loss" and not jnp.issubdtype(jnp.result_type(values), jnp.floating):
        raise TypeError(f"loss: got {jnp.result_type(values)}, expected floating-point losses: others have no gradient")
    return values


def weighted_sum(values: Float[Array, " batch"], weights: Float[Array, " batch"]) -> Float[Array, ""]:
    """`sum_i w_i v_i`, in float32 or wider, where a weight of 0 also silences a NaN."""
    wide = values.astype(accumulation_dtype(values))
    return jnp.sum(jnp.where(weights != 0, weights.astype(wide.dtype) * wide, 0.0))


def mean_loss(loss: Loss, params: Tree, batch: Batch, name: str) -> Float[Array, ""]:
    """The weighted mean loss of a batch, as `paired_value_and_grad` has it."""
    shares = _shares(loss, batch, None, name)
    return weighted_sum(per_example(loss, params, batch, shares.shape[0], name), shares)


def _shares(loss: Loss, batch: Batch, weights: Any, name: str, axis_name: AxisName | None = None) -> Float[Array, " batch"]:
    """Each example's share of the mean; all 0 where all weights are 0."""
    size = validate.batch(name, batch)
    weights = example_weights(loss, batch, size, weights, name.replace("batch", "weights"))
    total = device_axes.total(jnp.sum(weights), axis_name)
    return weights / jnp.where(total > 0, total, 1.0)


def mean_and_grad(
    loss: Loss, batch: Batch, weights: Any, *, microbatch_size: int | None, name: str, axis_name: AxisName | None
) -> Partial:
    """The weighted mean loss and its gradient, accumulated over microbatches, as a function of the parameters."""
    shares = _shares(loss, batch, weights, name, axis_name)

    def share_of_mean(params: Tree, batch: Batch, shares: Array) -> Array:
        return weighted_sum(per_example(loss, params, batch, shares.shape[0], name), shares)

    def of_microbatch(params: Tree, batch: Batch, shares: Array) -> tuple[Array, Tree]:
        value, grads = jax.value_and_grad(share_of_mean)(params, batch, shares)
        return value, jax.tree.map(lambda g: g.astype(accumulation_dtype(g)), grads)

    def of_batch(params: Tree) -> tuple[Array, Tree]:
        value, grads = microbatched(of_microbatch, microbatch_size)(params, batch, shares)
        return value, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return of_batch


def per_example_value_and_grad(loss: Loss, params: Tree, examples: Batch) -> tuple[Float[Array, " batch"], Tree]:
    """`vmap(value_and_grad)` over examples."""

    def loss_of_example(params: Tree, example: Batch) -> Array:
        return per_example(loss, params, jax.tree.map(lambda x: x[None], example), 1, "one example of the batch")[0]

    each = jax.vmap(jax.value_and_grad(loss_of_example), in_axes=(None, 0))
    return device_axes.by_device(each, validate.batch("batch", examples))(params, examples)


def microbatched(
    function: Callable[[Tree, Batch, Array], Any],
    microbatch_size: int | None,
    accumulate: optax.microbatching.AccumulationType = optax.microbatching.AccumulationType.SUM,
) -> Callable[[Tree, Batch, Float[Array, " batch"]], Any]:
    """`function(params, batch, weights)` on one microbatch at a time; the last is filled up with examples of weight 0."""

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
