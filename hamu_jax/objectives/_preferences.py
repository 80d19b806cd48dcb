"""Preference losses: they compare an answer's probability with the original model's, or with another answer's."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax._gradients.losses import Loss
from hamu_jax.objectives._lowered import check_all, own_weights

Reference: TypeAlias = Callable[[Any], Float[Array, " batch"]]


def _referred(name: str, reference: Reference, batch: Any, losses: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """The result of a reference, checked to be one number per example."""
    values = reference(batch)
    if values.shape != losses.shape:
        raise ValueError(f"{name}: got shape {values.shape}, expected {losses.shape}: one loss per example")
    return values


@dataclasses.dataclass(frozen=True)
class Preference:
    """The base of preference losses: each example counts once, whatever its number of tokens, and padding does not count."""

    loss: Loss

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """One loss per example, 0 for padding."""
        counted = self.weights(batch) > 0
        values = self.of(jnp.where(counted, self.margin(params, batch), 0.0))
        return jnp.where(counted, values, 0.0)

    def margin(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """The margin: the larger, the more the answer is preferred."""
        raise NotImplementedError

    def of(self, margin: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """The loss of a margin."""
        raise NotImplementedError

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """1 for an example, 0 for padding."""
        weights = own_weights(self.loss, batch)
        return (weights > 0).astype(weights.dtype)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Runs the check of the loss, if it has one."""
        check_all((self.loss,), params, batch, name)


@dataclasses.dataclass(frozen=True)
class NPO(Preference):
    """See `npo`."""

    reference: Reference
    beta: float

    def margin(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """By how much the loss is above the original model's: `-log(p / p_original)`."""
        losses = self.loss(params, batch)
        return losses - _referred("reference", self.reference, batch, losses)

    def of(self, margin: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """`-2/beta log sigmoid(beta margin)`."""
        return -2.0 / self.beta * jax.nn.log_sigmoid(self.beta * margin)


@dataclasses.dataclass(frozen=True)
class SimNPO(Preference):
    """See `simnpo`."""

    beta: float
    gamma: float

    def margin(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """The loss itself."""
        return self.loss(params, batch)

    def of(self, margin: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """`-2/beta log sigmoid(beta margin - gamma)`."""
        return -2.0 / self.beta * jax.nn.log_sigmoid(self.beta * margin - self.gamma)


@dataclasses.dataclass(frozen=True)
class DPO(Preference):
    """See `dpo`; `loss` is that of the preferred answer."""

    rejected: Loss
    reference: Reference
    rejected_reference: Reference
    beta: float

    def margin(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """By how much the preferred answer's log-ratio to the original model is above the rejected one's."""
        preferred, rejected = self.loss(params, batch), self.rejected(params, batch)
        gained = _referred("reference", self.reference, batch, preferred) - preferred
        return gained - (_referred("rejected_reference", self.rejected_reference, batch, rejected) - rejected)

    def of(self, margin: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """`-log sigmoid(beta margin)`."""
        return -jax.nn.log_sigmoid(self.beta * margin)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """1 for an example with both answers, 0 for one without."""
        weights = super().weights(batch)
        return weights * (own_weights(self.rejected, batch) > 0).astype(weights.dtype)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Runs the checks of both losses, where they have one."""
        check_all((self.loss, self.rejected), params, batch, name)


def npo(loss: Loss, reference: Reference, *, beta: float = 0.1) -> NPO:
    """Negative preference optimisation, `-2/beta log sigmoid(-beta log(p / p_original))`, to be lowered.

    Its gradient is that of gradient ascent on `loss`, weighed by `2 p^beta / (p^beta + p_original^beta)`: 1 at the start,
    and close to 0 for forgotten examples. As `beta` goes to 0 it is gradient ascent. Every example counts once.

    Args:
      loss: minus the log-probability of each answer: `cross_entropy`, or `causal_cross_entropy(..., per="sequence")`.
      reference: `reference(batch) -> [batch]`, the same loss of the original model: `lambda batch: loss(original, batch)`,
        or, for a big model, computed once and stored in the data (see `kl`): one number per example.
      beta: inverse temperature, above 0.

    Returns:
      A loss, to be wrapped in `lowered`.

    Raises:
      ValueError: if `beta` is not positive; while tracing, if `reference` does not return `[batch]`.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = npo(lambda w, x: x * w, lambda x: x, beta=1.0)
      >>> print(loss(1.0, jnp.array([2.0])))
      [1.3862944]

    Source: arXiv 2404.05868, equation 3; the limit is its proposition 1.
    """
    validate.constant("beta", beta, positive=True)
    return NPO(loss, reference, beta)


def simnpo(loss: Loss, *, beta: float = 2.5, gamma: float = 0.0) -> SimNPO:
    """NPO without the original model, `-2/beta log sigmoid(-beta/|y| log p - gamma)`, to be lowered.

    Every example counts once.

    Args:
      loss: minus the mean log-probability of each answer's tokens: `cross_entropy`, or `causal_cross_entropy`.
      beta: inverse temperature, above 0.
      gamma: margin of the loss, at least 0: larger forgets more.

    Returns:
      A loss, to be wrapped in `lowered`.

    Raises:
      ValueError: if `beta` is not positive or `gamma` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> print(simnpo(lambda w, x: x * w, beta=1.0)(1.0, jnp.array([0.0])))
      [1.3862944]

    Source: arXiv 2410.07163, section 5 (the SimNPO objective).
    """
    validate.constant("beta", beta, positive=True)
    validate.constant("gamma", gamma)
    return SimNPO(loss, beta, gamma)


def dpo(preferred: Loss, rejected: Loss, *, reference: Reference, rejected_reference: Reference, beta: float = 0.1) -> DPO:
    """Direct preference optimisation: prefers one answer (a refusal, "I don't know") to another (the one in the forget set).

    `-log sigmoid(beta log(p(w) / p_original(w)) - beta log(p(l) / p_original(l)))`, `w` preferred to `l`, to be lowered. TOFU's
    simpler variant just trains on refusals: `lowered(causal_cross_entropy(apply_to_refusals, label="refusal"))`.

    Args:
      preferred: minus the log-probability of the preferred answers, `causal_cross_entropy(..., per="sequence")` or
        `cross_entropy`; it reads its part of the batch.
      rejected: minus the log-probability of the rejected answers.
      reference: `reference(batch) -> [batch]`, `preferred` of the original model, as in `npo`.
      rejected_reference: `rejected` of the original model.
      beta: inverse temperature, above 0.

    Returns:
      A loss, to be wrapped in `lowered`.

    Raises:
      ValueError: as `npo`.

    Example:
      >>> import jax.numpy as jnp
      >>> ones = lambda batch: jnp.ones(len(batch))
      >>> loss = dpo(lambda w, x: x * w, lambda w, x: x / w, reference=ones, rejected_reference=ones)
      >>> print(loss(1.0, jnp.array([1.0])))
      [0.6931472]

    Source: arXiv 2305.18290, equation 7; for unlearning arXiv 2404.05868 section 2 and TOFU, arXiv 2401.06121, section 3.
    """
    validate.constant("beta", beta, positive=True)
    return DPO(preferred, rejected, reference, rejected_reference, beta)
