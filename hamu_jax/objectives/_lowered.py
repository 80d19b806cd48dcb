"""The change of sign of a loss that must fall on the forget set, and helpers for losses of losses."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax._gradients.losses import Loss, example_weights


def check_all(losses: tuple[Loss, ...], params: Any, batch: Any, name: str) -> None:
    """Runs the check of every loss that has one."""
    for loss in losses:
        check = getattr(loss, "check", None)
        if check is not None:
            check(params, batch, name)


def own_weights(loss: Loss, batch: Any) -> Float[Array, " batch"]:
    """The weights of a loss; 1 for each example if the loss has no padding."""
    return example_weights(loss, batch, validate.batch("batch", batch), None)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """See `lowered`."""

    loss: Loss

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """Minus the loss."""
        return -self.loss(params, batch)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """The weights of the loss."""
        return own_weights(self.loss, batch)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Runs the check of the loss, if it has one."""
        check_all((self.loss,), params, batch, name)


def lowered(loss: Loss) -> Lowered:
    """The forget loss of a method that is defined by a loss to be lowered on the forget set.

    Everywhere in this library the forget loss is one that must rise. NPO, SimNPO, DPO, refusals and random labels are
    losses that must fall: `forget_loss=lowered(npo(...))`. Their sign changes here and nowhere else, so reported forget
    losses are negative.

    Args:
      loss: any loss.

    Returns:
      Minus the loss, with the same weights and checks.

    Example:
      >>> import jax.numpy as jnp
      >>> print(lowered(lambda w, batch: (batch - w) ** 2)(1.0, jnp.array([3.0])))
      [-4.]
    """
    return Lowered(loss)
