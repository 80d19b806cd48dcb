"""The curve of a run at equal forgetting: its cost as a function of how much it has forgotten."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.runs.unlearning import COST

POINTS, COLUMNS = 60, 5
VISIBLE = 0.75  # the share of all methods whose last cost the picture shows: those that diverge shall not hide the others


class CostCurve(NamedTuple):
    """A step function: `cost[i]` is the cost of the first evaluated model whose forget loss is at least `forgotten[i]`.

    Attributes:
      forgotten: forget losses in ascending order, each a new highest one, in units of the way: 0 at the start, 1 at the level.
      cost: the rise of the validation loss there.
    """

    forgotten: Float[np.ndarray, " points"]
    cost: Float[np.ndarray, " points"]

    def at(self, shares: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The cost of having forgotten at least these shares of the way; NaN where the run did not get there."""
        rows = np.searchsorted(self.forgotten, shares)
        return np.append(self.cost, np.nan)[rows]

    @property
    def mean(self) -> float | None:
        """The area under the curve from 0 to 1; None if the run did not reach the level."""
        if not self.forgotten.size or self.forgotten[-1] < 1.0:
            return None
        widths = np.diff(np.minimum(self.forgotten, 1.0), prepend=0.0)
        return float(np.sum(np.maximum(widths, 0.0) * self.cost))


def cost_curve(way: Mapping[str, Mapping[str, Any]], level: float) -> CostCurve:
    """The curve of a run, up to the first evaluation at the level or above.

    Args:
      way: of the splits `forget` and `COST` the `loss` at every evaluation, the first at the start; None if not finite.
      level: the forget loss that is aimed at.
    """
    losses, costs = (np.asarray(way[split]["loss"], np.float64) for split in ("forget", COST))
    finite = np.isfinite(losses)
    losses, costs = losses[finite], costs[finite] - costs[0]
    if losses[0] >= level:
        return CostCurve(np.ones(1), np.zeros(1))
    shares = (losses - losses[0]) / (level - losses[0])
    highest = np.maximum.accumulate(shares)
    new = np.flatnonzero((np.diff(highest, prepend=-np.inf) > 0) & (np.append(-np.inf, highest[:-1]) < 1.0))
    return CostCurve(shares[new], costs[new])


def curves_picture(curves: Mapping[str, Sequence[CostCurve]]) -> Figure:
    """A panel per method: mean cost over the share of the way to the level, with a band of one standard deviation."""
    shares = np.linspace(0.0, 1.0, POINTS)
    drawn = {method: np.stack([curve.at(shares) for curve in some]) for method, some in curves.items()}
    rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(11, 1.9 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    means = {method: _over_runs(values) for method, values in drawn.items()}
    for axes, method in zip(panels, drawn, strict=False):
        for middle, _ in means.values():
            axes.plot(shares, middle, color="#cccccc", linewidth=0.8)
        middle, spread = means[method]
        axes.fill_between(shares, middle - spread, middle + spread, color="#0072b2", alpha=0.25, linewidth=0)
        axes.plot(shares, middle, color="#0072b2", linewidth=1.6)
        axes.set_title(method, fontsize=9)
        axes.grid(alpha=0.25)
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    ends = [middle[-1] for middle, _ in means.values() if np.isfinite(middle[-1])]
    if ends:
        highest = max(2.0 * float(np.quantile(ends, VISIBLE)), -min(ends), 1e-6)
        panels[0].set_ylim(min(*ends, 0.0) - 0.1 * highest, highest)
    figure.supxlabel("forgotten: share of the way from the full model's forget loss to the level")
    figure.supylabel(textwrap.fill("cost: rise of the validation retain loss", 30))
    return figure


def _over_runs(values: Float[np.ndarray, "runs n"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the runs, where all got there."""
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(axis=0), spread
