"""Passes over whole data sets, one batch at a time, on the host."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._datasets.fixed_size_batches import fixed_size_batches
from hamu_jax._gradients.losses import Loss, example_weights, per_example, weighted_sum
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype, ratio
from hamu_jax.sharding._batches import replicated


def data_set_mean_and_grad(
    loss: Loss, params: Tree, data: Any, microbatch_size: int | None, mesh: Mesh | None = None, *, name: str = "data"
) -> tuple[float, Tree]:
    """The mean loss over a data set and its gradient.

    The loop over batches runs on the host: convolutions are slow inside XLA's loops on a CPU.
    """
    total: Any = None
    for batch, real in fixed_size_batches(data, validate.batch(name, data), microbatch_size, mesh):
        sums = _loss_and_gradient_sums(loss, params, batch, real, name)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    value, weight, grads = total
    scale = ratio(jnp.ones_like(weight), weight)
    return float(value * scale.astype(value.dtype)), jax.tree.map(
        lambda g, p: (g * scale.astype(g.dtype)).astype(p.dtype), grads, params
    )


@functools.partial(jax.jit, static_argnames=("loss", "name"))
def _loss_and_gradient_sums(loss: Loss, params: Tree, batch: Any, real: Array, name: str) -> tuple[Array, Array, Tree]:
    """The weighted sum of losses over the first `real` examples, the sum of weights, and the sum's gradient."""
    size = validate.batch("data", batch)
    weights = example_weights(loss, batch, size, jnp.arange(size) < real)

    def summed(params: Tree) -> Array:
        return weighted_sum(per_example(loss, params, batch, size, name), weights)

    value, grads = jax.value_and_grad(summed)(params)
    return value, jnp.sum(weights), jax.tree.map(lambda g: g.astype(accumulation_dtype(g)), grads)


def profile(
    function: Any,
    loss: Loss,
    params: Tree,
    data: Any,
    microbatch_size: int | None,
    *direction: Tree,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, " examples"]:
    """A number per example over a data set, NaN for padding."""
    values: list[np.ndarray] = []
    for batch, real in fixed_size_batches(data, validate.batch("data", data), microbatch_size, mesh):
        values.append(np.asarray(_numbers(function, loss, params, batch, *direction, mesh=mesh))[:real])
    return np.concatenate(values)


@functools.partial(jax.jit, static_argnames=("function", "loss", "mesh"))
def _numbers(function: Any, loss: Loss, params: Tree, batch: Any, *direction: Tree, mesh: Mesh | None) -> Array:
    """A number per example, NaN for padding, where every process may read it."""
    with device_axes.within(mesh):
        numbers = function(loss, params, batch, *direction)
    numbers = jnp.where(example_weights(loss, batch, numbers.shape[0], None) != 0, numbers, jnp.nan)
    return numbers if mesh is None else jax.lax.with_sharding_constraint(numbers, replicated(mesh))
