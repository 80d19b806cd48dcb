"""The forget losses that count as forgotten: a level, and how far from it a loss may be."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hamu_jax._datasets.evaluate import evaluate
from hamu_jax._forget.request_losses import request_losses
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss
from hamu_jax._transform.level import Level


@dataclasses.dataclass(frozen=True)
class Band:
    """The forget losses that count as forgotten: `level` up to `width` on either side.

    A request whose loss was above its band before the run asks for nothing: whatever is above its level counts.

    Attributes:
      level: `[m]`, one for each request, or one.
      width: `[m]`, likewise.
      before: `[m]`, the forget losses of the original parameters.
    """

    level: Float[np.ndarray, " m"]
    width: Float[np.ndarray, " m"]
    before: Float[np.ndarray, " m"]

    @property
    def is_reached(self) -> bool:
        """Whether the original parameters have forgotten already: every request is in its band or above it."""
        return bool(np.all(self.before >= self.level - self.width))

    @property
    def above(self) -> Float[np.ndarray, " m"]:
        """How far above its level each loss may be."""
        return np.where(self.before > self.level + self.width, np.inf, self.width)

    def distances(self, losses: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """How far each loss is outside its band; 0 inside."""
        return np.maximum(np.maximum(self.level - self.width - losses, losses - self.level - self.above), 0.0)

    def outside(self, losses: Float[np.ndarray, " m"]) -> float:
        """How far the losses are outside the band; of many requests that of the farthest."""
        return float(np.max(self.distances(losses)))

    def describe(self) -> str:
        """The level in words."""
        if np.all(self.level == self.level[0]):
            return f"level {self.level[0]:.3g}, give or take {self.width[0]:.2g}"
        return f"levels from {self.level.min():.3g} to {self.level.max():.3g}"


def band_of(
    level: Any, tolerance: float, requests: Groups | None, *, loss: Loss, params: Any, given: dict[str, Any], batch_size: int
) -> Band:
    """The level of each request, and how far from it counts as reached.

    Raises:
      ValueError: for neither a level nor unseen data, a level that is not finite, or a wrong number of levels.
    """
    count = None if requests is None else requests.count
    if level is None:
        level = evaluate(loss, params, {"unseen": given["unseen"]}, batch_size=batch_size)["unseen/loss"]
        if not math.isfinite(level):
            raise ValueError(f"unseen: got a mean loss of {level} under the original parameters, expected a finite one")
    levels_given = Level(level).count
    if levels_given not in (None, count):
        wanted = "a number" if count is None else f"a number, or {count}, one for each request"
        raise ValueError(f"level: got {levels_given} numbers, expected {wanted}")
    levels = np.broadcast_to(np.asarray(level, np.float64), (1 if count is None else count,))
    before = request_losses(loss, params, given["forget"], requests, batch_size=batch_size)
    return Band(levels, tolerance * np.abs(levels), before)


def chance_level(loss: Loss, params: Any, data: Any) -> str:
    """For a classifier, a hint at the loss of a guess."""
    apply = getattr(loss, "apply", None)
    if apply is None:
        return ""
    classes = jax.eval_shape(apply, params, jax.tree.map(lambda x: x[:1], data)).shape[-1]
    return f"; for a classifier of {classes} classes a guess has level={math.log(classes):.3f}"
