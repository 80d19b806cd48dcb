"""SCRUB's retain loss: a mixture of the task's loss and a divergence."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax._gradients.losses import Loss
from hamu_jax.objectives._lowered import check_all, own_weights


@dataclasses.dataclass(frozen=True)
class Scrub:
    """See `scrub`."""

    loss: Loss
    divergence: Loss
    alpha: float
    gamma: float

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """The weighted sum of both losses."""
        return self.alpha * self.divergence(params, batch) + self.gamma * self.loss(params, batch)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """The weights of `loss`; those of `divergence` must be the same."""
        return own_weights(self.loss, batch)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Runs the checks of both losses, where they have one."""
        check_all((self.loss, self.divergence), params, batch, name)


def scrub(loss: Loss, divergence: Loss, *, alpha: float = 0.001, gamma: float = 0.99) -> Scrub:
    """SCRUB's retain loss, `alpha KL + gamma CE`. Its forget loss, which must rise, is the divergence.

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
    validate.constant("alpha", alpha)
    validate.constant("gamma", gamma)
    return Scrub(loss, divergence, alpha, gamma)
