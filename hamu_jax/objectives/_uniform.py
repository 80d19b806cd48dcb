"""Losses for uninformative predictions: the uniform distribution, and entropy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hamu_jax.objectives._predictions import Apply, Predictions


@dataclasses.dataclass(frozen=True)
class Uniform(Predictions):
    """See `uniform`."""

    def each(self, params: Any, batch: Any) -> Float[Array, " batch *time"]:
        """One cross-entropy per prediction."""
        logits = self.logits(params, batch)
        return optax.losses.softmax_cross_entropy(logits, jnp.full_like(logits, 1.0 / logits.shape[-1]))


@dataclasses.dataclass(frozen=True)
class Entropy(Predictions):
    """See `entropy`."""

    def each(self, params: Any, batch: Any) -> Float[Array, " batch *time"]:
        """One entropy per prediction."""
        logits = self.logits(params, batch)
        return optax.losses.softmax_cross_entropy(logits, jax.nn.softmax(logits))


def uniform(apply: Apply, *, label: Any = "label") -> Uniform:
    """Cross-entropy to the uniform distribution, `-sum_c log(p_c) / classes`: lowered, it makes predictions uninformative.

    It is the divergence of the prediction from the uniform distribution plus `log(classes)`, its least value. As a
    forget loss use `lowered(uniform(apply))`. It grows without bound where a class gets no probability; `entropy` does not.

    Args:
      apply: as in `kl`.
      label: as in `kl`.

    Returns:
      A loss as `cross_entropy` returns it.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = uniform(lambda params, batch: batch["x"] @ params)
      >>> print(loss(jnp.zeros((2, 4)), {"x": jnp.eye(2), "label": jnp.array([0, 1])}))
      [1.3862944 1.3862944]

    Source: Outlier Exposure, arXiv 1812.04606, section 3 (cross-entropy to the uniform distribution).
    """
    return Uniform(apply, label)


def entropy(apply: Apply, *, label: Any = "label") -> Entropy:
    """The entropy of the prediction, `-sum_c p_c log p_c`, in nats: a forget loss that rises up to `log(classes)`.

    Args:
      apply: as in `kl`.
      label: as in `kl`.

    Returns:
      A loss as `cross_entropy` returns it.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = entropy(lambda params, batch: batch["x"] @ params)
      >>> print(loss(jnp.zeros((2, 4)), {"x": jnp.eye(2), "label": jnp.array([0, 1])}))
      [1.3862944 1.3862944]

    Source: arXiv 2410.08109 (unlearning by maximising entropy).
    """
    return Entropy(apply, label)
