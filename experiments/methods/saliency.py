"""SalUn's weight saliency (arXiv 2310.12508): change only the weights on which the forget loss depends most."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

Mask = Any  # a pytree of booleans, one per parameter


def saliency_mask(grads: optax.Params, fraction: float = 0.5) -> Mask:
    """The `fraction` of all parameters whose gradient is largest in size; ties at the threshold are in.

    Args:
      grads: gradient of the forget loss at the original parameters.
      fraction: how much of the model may change, above 0 and at most 1; the paper's threshold, the median, is 0.5.

    Returns:
      A pytree of booleans like `grads`.

    Raises:
      ValueError: for a fraction that is not above 0 and at most 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(saliency_mask({"w": jnp.array([3.0, -2.0]), "b": jnp.array([0.5, 1.0])}))
      {'b': Array([False, False], dtype=bool), 'w': Array([ True,  True], dtype=bool)}

    Source: SalUn, arXiv 2310.12508, equation 3.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: got {fraction!r}, expected a number above 0 and at most 1")
    sizes = jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(grads)])
    count = max(1, round(fraction * sizes.size))
    threshold = jax.lax.top_k(sizes, count)[0][-1]
    return jax.tree.map(lambda leaf: _reaches(leaf, threshold), grads)


def masked_updates(mask: Mask) -> optax.GradientTransformation:
    """Sets the updates outside a mask to zero: chain it after any method's step, before the learning rate or behind it.

    The mask is part of the state, not of the program, so that one compiled step serves every mask.

    Args:
      mask: a pytree of booleans like the parameters.

    Returns:
      An optax transformation. With it a step no longer keeps the promises that its rule made.

    Source: SalUn, arXiv 2310.12508, equation 4.
    """

    def update(updates: optax.Updates, state: Mask, params: Any = None) -> tuple[optax.Updates, Mask]:
        del params
        return jax.tree.map(lambda u, keep: jnp.where(keep, u, jnp.zeros_like(u)), updates, state), state

    def init(params: Any) -> Mask:
        del params
        return jax.tree.map(jnp.copy, mask)  # steps may give their state away, and other runs need the mask, too

    return optax.GradientTransformation(init, update)


def _reaches(leaf: Array, threshold: Array) -> Bool[Array, "..."]:
    """Where a leaf is at least as large as the threshold."""
    return jnp.abs(leaf) >= threshold.astype(leaf.dtype)
