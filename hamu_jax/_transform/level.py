"""A level for the forget loss to reach: the improvement required of a step is the remaining distance to it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax.rules import Rule


class Remaining(NamedTuple):
    """How far the forget loss is from its level, per unit of learning rate.

    Attributes:
      required: the rise that is required; negative where the loss may fall.
      most: the largest rise that is allowed.
    """

    required: Float[Array, "*m"]
    most: Float[Array, "*m"]


@dataclasses.dataclass(frozen=True)
class Level:
    """A forget loss at which unlearning is done, for `transform(..., until=...)`.

    Where the forget loss `L` is below the level, a step must raise it by the rest, `level - L`, but by no more than
    `improvement`. Between the level and `band` above it, the forget loss must not fall: HAMU-Q then spends the whole
    step on the retain loss. Above the band the forget loss may fall back, by at most `L - level`. With one forget objective it
    may not rise above the band either, to first order: a step that would do so is turned.

    Attributes:
      value: the level, in units of the loss; or one level for each of `m` requests.
      learning_rate: the factor of the update after the transform; a number or an optax schedule. It turns the remaining rise
        into an improvement per unit of learning rate.
      band: how far above the level the forget loss may be, in units of the loss; `inf`: any distance. Or one number for
        each of `m` levels.

    Raises:
      ValueError: for a level that is not finite, a learning rate that is not positive, a negative band, or another number of
        bands than of levels.

    Source: DESIGN.md, section 2.9; docs/mathematics.md, section 8.
    """

    value: float | Sequence[float]
    learning_rate: optax.ScalarOrSchedule = 1.0
    band: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        expected = f"value: got {validate.shown(self.value)}, expected a finite number, or one for each request"
        try:
            values = np.asarray(validate.real_array("value", self.value))
        except TypeError as error:
            raise ValueError(expected) from error
        if values.dtype.kind not in "iuf" or values.ndim > 1 or values.size == 0 or not np.all(np.isfinite(values)):
            raise ValueError(expected)
        validate.number("learning_rate", self.learning_rate, positive=True)
        many = self.band if isinstance(self.band, (tuple, list)) else None
        for band in (self.band,) if many is None else many:
            if not (isinstance(band, float) and band == math.inf):
                validate.constant("band", band)
        if many is not None and len(many) != self.count:
            expected = "a number" if self.count is None else f"a number, or {self.count}, one for each level"
            raise ValueError(f"band: got {len(many)} numbers, expected {expected}")

    @property
    def count(self) -> int | None:
        """The number of levels, one per request; None for a single level."""
        return None if np.ndim(self.value) == 0 else int(np.size(self.value))

    def gap(self, loss: Float[Array, "*m"]) -> Float[Array, "*m"]:
        """The remaining distance to the level, in units of the loss: negative above the band, 0 within it."""
        gap = jnp.asarray(self.value, loss.dtype) - loss
        return jnp.where((gap < 0) & (gap >= -jnp.asarray(self.band, loss.dtype)), 0.0, gap)

    def bounds(self, loss: Float[Array, "*m"]) -> tuple[Float[Array, "*m"], Float[Array, "*m"]]:
        """The changes of the forget loss that lead to the level and to the top of the band."""
        lowest = jnp.asarray(self.value, loss.dtype) - loss
        return lowest, lowest + jnp.asarray(self.band, loss.dtype)

    def remaining(self, loss: Float[Array, "*m"], step: Array, scale: Float[Array, ""] | float = 1.0) -> Remaining:
        """The rise of the forget loss that is required, and the most that is allowed, per unit of learning rate.

        Args:
          loss: the forget loss, or the forget losses of `m` requests.
          step: the number of updates made, for a schedule.
          scale: a factor of the learning rate that is not part of `learning_rate`.
        """
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        rate = jnp.asarray(rate, loss.dtype) * jnp.asarray(scale, loss.dtype)
        room = jnp.asarray(self.value, loss.dtype) + jnp.asarray(self.band, loss.dtype) - loss
        return Remaining(self.gap(loss) / rate, jnp.maximum(room, 0.0) / rate)


def as_level(until: Level | float | None, rule: Rule) -> Level | None:
    """The level that `until` means.

    Raises:
      ValueError: for a rule that promises no rise of the forget loss, or a number that is not finite.
    """
    if until is None:
        return None
    if not rule.promises or rule.guaranteed != "forget":
        raise ValueError(
            "until: got a level with a rule that promises no rise of the forget loss, expected rules.hamu_q or rules.projected"
        )
    level = until if isinstance(until, Level) else Level(until)
    if level.count is not None and not rule.many:
        raise ValueError(f"until: got {level.count} levels, expected 1 with a rule for one forget objective")
    return level


def what_remains(level: Level | None, value: Any, step: Array, scale: Any, *, like: Float[Array, "*m"]) -> Remaining | None:
    """The remaining rise to the level, from the extra arguments of `update`, in the shape and dtype of `like`.

    Raises:
      ValueError: while tracing, for a missing forget loss or one of another shape.
    """
    if level is None:
        return None
    if value is None or jnp.shape(value) != like.shape:
        got = "nothing" if value is None else f"shape {jnp.shape(value)}"
        raise ValueError(
            f"forget_value: got {got}, expected the forget loss, of shape {like.shape}, since the transform has a level to "
            "reach: tx.update(retain_grads, state, params, forget_grads=forget_grads, forget_value=losses.forget)"
        )
    return level.remaining(jnp.asarray(value, like.dtype), step, scale)
