"""Which examples are alike to the model: the pairs whose gradients point most nearly the same way."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from hamu_jax._base import device_axes, validate
from hamu_jax._gradients.losses import Loss, example_weights
from hamu_jax._gradients.per_example import gram
from hamu_jax._kernel.inner_products import Tree, ratio
from hamu_jax.sharding._batches import replicated

EXAMPLES = 1024  # the number of examples that are compared
PAIRS = 10


class Pair(NamedTuple):
    """Two examples and the cosine of the angle between their gradients.

    Attributes:
      first: a row number.
      second: a larger one.
      cosine: 1 where a step changes both losses in the same proportion, as for duplicates.
    """

    first: int
    second: int
    cosine: float


def similar_pairs(
    loss: Loss, params: Tree, data: Any, microbatch_size: int | None, mesh: Mesh | None = None
) -> tuple[Pair, ...]:
    """The most similar pairs of the first 1,024 examples, most similar first; padding and gradients of 0 left out."""
    examples = jax.tree.map(lambda x: np.asarray(x[:EXAMPLES]), data)
    size = validate.batch("data", examples)
    count = min(PAIRS, size * (size - 1) // 2)
    if count == 0:
        return ()
    cosines, indices = _largest(loss, params, examples, microbatch_size, count=count, mesh=mesh)
    pairs = [Pair(*divmod(int(i), size), float(c)) for c, i in zip(cosines, indices, strict=True)]
    return tuple(pair for pair in pairs if np.isfinite(pair.cosine))


@functools.partial(jax.jit, static_argnames=("loss", "microbatch_size", "count", "mesh"))
def _largest(
    loss: Loss, params: Tree, batch: Any, microbatch_size: int | None, *, count: int, mesh: Mesh | None
) -> tuple[Float[Array, " count"], Int[Array, " count"]]:
    """The largest cosines above the diagonal, and their indices in the flattened matrix."""
    with device_axes.within(mesh):
        inner = gram(loss, params, batch, microbatch_size=microbatch_size)[0]
    size = inner.shape[0]
    norms = jnp.sqrt(jnp.diagonal(inner))
    counted = (example_weights(loss, batch, size, None) != 0) & (norms > 0)
    cosines = ratio(ratio(inner, jnp.broadcast_to(norms[:, None], inner.shape)), jnp.broadcast_to(norms[None, :], inner.shape))
    shown = counted[:, None] & counted[None, :] & jnp.triu(jnp.ones_like(counted, shape=(size, size)), 1)
    largest = jax.lax.top_k(jnp.where(shown & jnp.isfinite(cosines), cosines, -jnp.inf).reshape(-1), count)
    return largest if mesh is None else jax.lax.with_sharding_constraint(tuple(largest), replicated(mesh))
