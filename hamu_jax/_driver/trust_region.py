"""A trust region: every step is compared with its promise, and the length of the next one follows from it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._base import validate
from hamu_jax._gradients.paired import Paired
from hamu_jax._transform.level import Level

# Errors above which a step is refused, above which the next one is shorter, and below which it is longer.
REFUSED, POOR, GOOD = 1.0, 0.5, 0.25
HALVED, SHORTER, LONGER = 0.5, 2.0 / 3.0, 1.25
LARGEST = 1e6  # of the scale: a loss that is linear everywhere would let it overflow
MEMORY = 0.8  # of the means of what happened elsewhere: one batch says little about the others
ROUNDING = 8.0  # units of rounding of a loss, below which a change can't be seen
CERTAIN = 2.0  # standard errors beyond which a mean rise elsewhere is no accident
SETTLED = 3  # steps in a row that promised less than that


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """Take steps only as long as they keep their promises.

    The optimizer's update is multiplied by a scale, and taken on trial. Both losses are evaluated at the new point, on the
    step's own batches and on the next retain batch, which had no part in its gradients. With

        error = max(|forget measured - promised|, (retain measured - promised)+) / (|forget promised| + (-retain promised)+)

    and likewise for the rise of the retain loss elsewhere beyond `max(retain promised, 0)`, averaged over the last steps:
    above 1 the step is not taken and the scale halves; above 0.5 the scale shrinks by a third; below 0.25 it grows by a
    quarter. A loss that is not finite at the new point refuses the step. A run ends as `"converged"` when steps promise less
    than the rounding of the losses: there is nothing left to gain.

    With a level, a change of the forget loss counts only as far as the level: a step that promises more of it may not spoil the
    retain loss in exchange. A change beyond the promise is then no error unless it leads past the level.

    The cost: four more forward passes per step.

    Attributes:
      start: the first scale, above 0. With an optimizer whose updates have length 1 it is the length of the first step.
      level: the forget loss that is aimed at, as in `transform(..., until=...)`.

    Raises:
      ValueError: if `start` is not a positive number.

    Source: DESIGN.md, section 2.9; docs/mathematics.md, section 8.
    """

    start: float = 0.05
    level: Level | None = None

    def __post_init__(self) -> None:
        validate.constant("start", self.start, positive=True)
        validate.instance("level", self.level, Level, optional=True)


class Trust(NamedTuple):
    """What the trust region remembers from step to step.

    Attributes:
      scale: the factor of the next update.
      elsewhere: mean rise of the retain loss on other batches, beyond what was promised.
      squared: mean of the square of that rise.
      promised: mean of the promised changes.
      settled: the number of steps in a row that promised less than the losses' rounding.
    """

    scale: Float[Array, ""]
    elsewhere: Float[Array, ""]
    squared: Float[Array, ""]
    promised: Float[Array, ""]
    settled: Int[Array, ""]


class Trial(NamedTuple):
    """A step that was taken on trial.

    Attributes:
      losses: both losses before it; the forget loss is one per request, or a single one.
      promised: their first-order changes.
      measured: their changes on the same batches.
      elsewhere: the change of the retain loss on a batch that had no part in the gradients.
      asked: `[m]`, which forget requests have an example in the batch.
      protected: `[m]`, likewise for a protected request, for minus a loss that must not rise.
    """

    losses: Paired[Float[Array, "..."]]
    promised: Paired[Float[Array, "..."]]
    measured: Paired[Float[Array, "..."]]
    elsewhere: Float[Array, ""]
    asked: Bool[Array, " m"]
    protected: Bool[Array, " m"]


class Judgement(NamedTuple):
    """Whether a step is taken, by how much it missed its promise, and the trust in the next one."""

    accepted: Bool[Array, ""]
    error: Float[Array, ""]
    trust: Trust


def first_trust(region: TrustRegion) -> Trust:
    """The trust before the first step."""
    return Trust(jnp.float32(region.start), jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0), jnp.int32(0))


def judge(trust: Trust, trial: Trial, level: Level | None = None) -> Judgement:
    """Compares a step with its promise (see `TrustRegion`)."""
    promised, measured = trial.promised, trial.measured
    noise = jax.tree.map(lambda loss: ROUNDING * jnp.finfo(trial.losses.retain.dtype).eps * jnp.abs(loss), trial.losses)
    asked_noise = mean_of_present(noise.forget, trial.asked)
    # A promised rise of the retain loss is a price, and makes no error smaller.
    gain = _gain(trial, level)
    size = mean_of_present(gain, trial.asked) + mean_of_present(gain, trial.protected) + jnp.maximum(-promised.retain, 0.0)
    below, above = _miss(trial, level)
    forget = mean_of_present(jnp.maximum(below, above), trial.asked) - asked_noise
    protected = mean_of_present(below - noise.forget, trial.protected)
    retain = measured.retain - promised.retain - noise.retain
    beyond = (trial.elsewhere - jnp.maximum(promised.retain, 0.0) - noise.retain).astype(jnp.float32)
    elsewhere, usual = _remembered(trust.elsewhere, beyond), _remembered(trust.promised, size)
    errors = [_share(forget, size), _share(protected, size), _share(retain, size), _share(elsewhere, usual)]
    error = jnp.max(jnp.stack([x.astype(jnp.float32) for x in errors]))
    accepted = error <= REFUSED  # not true of a NaN
    factor = jnp.where(error > POOR, SHORTER, jnp.where(error < GOOD, LONGER, 1.0))
    scale = jnp.minimum(trust.scale * jnp.where(accepted, factor, HALVED), LARGEST).astype(jnp.float32)
    settled = jnp.where(size <= asked_noise + noise.retain, trust.settled + 1, 0)
    taken = Trust(scale, elsewhere, _remembered(trust.squared, beyond**2), usual, settled)
    refused = trust._replace(scale=scale, settled=settled)
    following = Trust(*(jnp.where(accepted, new, old) for new, old in zip(taken, refused, strict=True)))
    return Judgement(accepted, error, following)


def rises_elsewhere(trust: Trust) -> Bool[Array, ""]:
    """Whether the retain loss of batches that had no part in the steps rises, although none of the steps promised it.

    The mean rise over the last steps is above 0 by `CERTAIN` standard errors. A mean that forgets with the factor `MEMORY` is
    one of `(1 + MEMORY) / (1 - MEMORY)` = 9 numbers.
    """
    variance = jnp.maximum(trust.squared - trust.elsewhere**2, 0.0) * (1.0 - MEMORY) / (1.0 + MEMORY)
    return trust.elsewhere > CERTAIN * jnp.sqrt(variance)


def _remembered(mean: Float[Array, ""], value: Float[Array, ""]) -> Float[Array, ""]:
    """A mean that forgets, after one more value."""
    return MEMORY * mean + (1.0 - MEMORY) * value.astype(jnp.float32)


def _gain(trial: Trial, level: Level | None) -> Float[Array, " m"]:
    """The size of each change of a forget loss, promised or achieved, as far as it leads to the level."""
    promised, measured = trial.promised.forget, trial.measured.forget
    if level is None:
        return jnp.abs(promised)
    gap = level.gap(trial.losses.forget)
    useful = [jnp.where(change * gap > 0, jnp.minimum(jnp.abs(change), jnp.abs(gap)), 0.0) for change in (promised, measured)]
    return jnp.maximum(useful[0], useful[1])


def _miss(trial: Trial, level: Level | None) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """How far each forget loss is below and above what was promised; with a level, what lies between the two."""
    promised, measured = trial.promised.forget, trial.measured.forget
    lowest, highest = (promised, promised) if level is None else level.bounds(trial.losses.forget)
    below = jnp.minimum(promised, lowest) - measured
    above = measured - jnp.maximum(promised, highest)
    return jnp.maximum(below, 0.0), jnp.maximum(above, 0.0)


def _share(excess: Float[Array, ""], size: Float[Array, ""]) -> Float[Array, ""]:
    """An excess as a share of the promised changes; 0 where there is none, NaN where it is not finite."""
    positive = jnp.where(excess > 0, excess / jnp.where(size > 0, size, jnp.finfo(size.dtype).tiny), 0.0)
    return jnp.where(jnp.isfinite(excess), positive, jnp.nan)


def mean_of_present(values: Float[Array, "..."], present: Bool[Array, " m"]) -> Float[Array, ""]:
    """The mean over the requests that are present; 0 if none is."""
    return jnp.sum(jnp.where(present, values, 0.0)) / jnp.maximum(jnp.sum(present), 1).astype(values.dtype)
