"""Losses made of other losses: the change of sign, and SCRUB's mixture."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from hamu_jax import _validate
from hamu_jax._gradients import Loss, example_weights


def check_all(losses: tuple[Loss, ...], params: Any, batch: Any, name: str) -> None:
    """Every loss's own check, where it has one."""
    for loss in losses:
        check = getattr(loss, "check", None)
        if check is not None:
            check(params, batch, name)


def own_weights(loss: Loss, batch: Any) -> Float[Array, " batch"]:
    """A loss's weights; 1 for each example of a loss that knows no padding."""
    return example_weights(loss, batch, _validate.batch("batch", batch), None)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """See `lowered`."""

    loss: Loss

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """Minus the loss."""
        return -self.loss(params, batch)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """The loss's own."""
        return own_weights(self.loss, batch)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """The loss's own, if it has one."""
        check_all((self.loss,), params, batch, name)


@dataclasses.dataclass(frozen=True)
class Scrub:
    """See `scrub`."""

    loss: Loss
    divergence: Loss
    alpha: float
    gamma: float

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """The mixture."""
        return self.alpha * self.divergence(params, batch) + self.gamma * self.loss(params, batch)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """Those of `loss`, which are to be those of `divergence` too."""
        return own_weights(self.loss, batch)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Both losses' own, where they have one."""
        check_all((self.loss, self.divergence), params, batch, name)


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


def scrub(loss: Loss, divergence: Loss, *, alpha: float = 0.001, gamma: float = 0.99) -> Scrub:
    """SCRUB's retain loss, `alpha KL + gamma CE`. Its forget loss, to rise, is the divergence itself.

    Args:
      loss: the task's loss, `cross_entropy` for example.
      divergence: `kl` to the original model, of the same predictions.
      alpha: weight of the divergence.
      gamma: weight of the task's loss.

    Returns:
      The mixture, with the weights of `loss` and the checks of both.

    Raises:
      ValueError: for a negative weight.

    Example:
      >>> import jax.numpy as jnp
      >>> print(scrub(lambda w, x: x, lambda w, x: x * 0, gamma=0.5)(None, jnp.array([2.0])))
      [1.]

    Source: SCRUB, arXiv 2302.09880, section 3 (the full objective); the weights are those of HAMU's experiments, arXiv
    2606.02119. The paper alternates epochs of both; here they are one step's two objectives, as in HAMU's experiments.
    """
    _validate.number("alpha", alpha)
    _validate.number("gamma", gamma)
    return Scrub(loss, divergence, alpha, gamma)
