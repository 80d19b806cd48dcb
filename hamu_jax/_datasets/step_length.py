"""How long a planned step may be: the largest learning rate at which its effect still agrees with its first-order promise."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hamu_jax._datasets.evaluate import means_of_splits
from hamu_jax._gradients.losses import Loss
from hamu_jax._gradients.paired import Paired
from hamu_jax._kernel.inner_products import Tree

EXAMPLES = 1024  # the number of examples of either set that are evaluated
HALVINGS, LARGEST = 40, 16.0  # learning rates that are tried: LARGEST, half of it, and so on
HALF = 0.5  # of the promised changes: a larger error is too much


def longest_learning_rate(
    losses: Paired[Loss],
    params: Tree,
    data: Paired[Any],
    step: Tree,
    promised: Paired[float],
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> float:
    """The largest learning rate, up to a factor of 2, at which a step about keeps its promise; 0 if there is none.

    The error is that of `TrustRegion`: how far the forget loss is from its promise, or the retain loss above its own, as a
    share of the promised changes. It may be at most a half.

    Args:
      losses: of the retain and of the forget set.
      params: where the step begins.
      data: the retain and the forget set; the first 1,024 examples of each are evaluated.
      step: the step of learning rate 1.
      promised: the first-order changes of both losses along it.
      batch_size: examples evaluated at once.
      mesh: the devices that they are split over.
    """
    samples = Paired(*(jax.tree.map(lambda x: x[:EXAMPLES], examples) for examples in data))

    def means(rate: float) -> Paired[float]:
        moved = jax.tree.map(lambda p, d: p + jnp.asarray(rate, d.dtype) * d, params, step) if rate else params
        numbers = (
            means_of_splits({"loss": loss}, moved, {"sample": sample}, batch_size=batch_size, mesh=mesh)["sample/loss"]
            for loss, sample in zip(losses, samples, strict=True)
        )
        return Paired(*numbers)

    size = abs(promised.retain) + abs(promised.forget)
    before = means(0.0)
    for halvings in range(HALVINGS if size > 0 else 0):
        rate = LARGEST * 0.5**halvings
        after = means(rate)
        forget = abs(after.forget - before.forget - rate * promised.forget)
        retain = after.retain - before.retain - rate * promised.retain
        if max(forget, retain) <= HALF * rate * size:  # not true of a NaN
            return rate
    return 0.0
