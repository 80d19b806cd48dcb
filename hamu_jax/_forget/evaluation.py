"""What `forget` evaluates on the way: how far from the level, and at which cost."""

import dataclasses
import math
from typing import Any

import numpy as np
from jax.sharding import Mesh

from hamu_jax._datasets.evaluate import Evaluation
from hamu_jax._forget.band import Band
from hamu_jax._forget.request_losses import request_losses
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss

OUTSIDE, COST = "forget/outside", "held_out/cost"


@dataclasses.dataclass(frozen=True)
class ForgetEvaluation(Evaluation):
    """An `Evaluation` with two more columns, by which the best point is chosen.

    `forget/outside` says how far the forget losses of the requests are outside their band. `held_out/cost` is the held-out loss
    plus the rise of the unseen loss above `most_unseen`: what looks like the forget set may suffer with it, and that is a cost.
    Both losses are means over examples in the same unit, so that a unit of either counts alike.

    Attributes:
      band: the forget losses that count as forgotten.
      requests: the requests that the forget examples belong to, or None.
      most_unseen: the largest unseen loss that costs nothing.
    """

    band: Band = dataclasses.field(kw_only=True)
    requests: Groups | None = None
    most_unseen: float = math.inf

    def measure(self, loss: Loss, params: Any, mesh: Mesh | None = None) -> dict[str, float]:
        """Mean losses of the splits, `forget/outside` and `held_out/cost`."""
        row = super().measure(loss, params, mesh)
        losses = np.array([row["forget/loss"]])
        if self.requests is not None:
            options: dict[str, Any] = {"batch_size": self.batch_size, "mesh": mesh}
            losses = request_losses(loss, params, self.splits["forget"], self.requests, **options)
        rise = float(np.maximum(row.get("unseen/loss", -math.inf) - self.most_unseen, 0.0))
        return {**row, OUTSIDE: self.band.outside(losses), COST: row["held_out/loss"] + rise}

    def columns(self) -> tuple[str, ...]:
        """The names of what `measure` returns."""
        return (*super().columns(), OUTSIDE, COST)
