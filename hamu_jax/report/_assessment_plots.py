"""The pictures of an assessment."""

import math
from typing import Any

import numpy as np

from hamu_jax._datasets.assess import Assessment
from hamu_jax._kernel.hardness import Regime
from hamu_jax.report._plots import FORGET, GREY, RETAIN, new_axes, plain, plot_trade_off

_COLORS = {
    Regime.DIRECT: (RETAIN, "easy: forgetting is free"),
    Regime.RECTIFIED: ("#e69f00", "hard: the step is turned"),
    Regime.COLLINEAR: (FORGET, "hard: gradients are parallel"),
    Regime.INFEASIBLE: ("#000000", "infeasible"),
    Regime.UNCONSTRAINED: (GREY, "nothing is required"),
}
_MOST_BLOCKS = 40
_FEW_EXAMPLES = 50


def plot_assessment(assessment: Assessment) -> dict[str, Any]:
    """The local trade-off, the hardness of each block and of each forget example, and who among the retained would pay.

    Args:
      assessment: of `hamu_jax.assess`.

    Returns:
      Matplotlib figures: `trade_off`, `blocks`, `examples` and `collateral`. What is not finite is left out of them.

    Raises:
      ImportError: naming the extra, if matplotlib is missing.
    """
    return {
        "trade_off": _trade_off(assessment),
        "blocks": _blocks(assessment),
        "examples": _examples(assessment),
        "collateral": _collateral(assessment),
    }


def _trade_off(assessment: Assessment) -> Any:
    """The local trade-off with the planned step on it."""
    figure = plot_trade_off(assessment.trade_off)
    axes = figure.axes[0]
    axes.set_xlabel("required improvement")
    # Under variant "u" the planned improvement is the retain loss's, which is not what the axis shows.
    if assessment.variant == "q" and assessment.improvement <= float(assessment.trade_off.largest):
        axes.axvline(assessment.improvement, color="black", linestyle=":", label=f"planned: {assessment.improvement:g}")
    axes.get_legend().remove()
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _blocks(assessment: Assessment) -> Any:
    """The angle between the gradients in each block, coloured by what it means for the planned step."""
    angle, regime = np.asarray(assessment.hardness.angle), np.asarray(assessment.hardness.regime)
    shown = np.arange(angle.size)
    if angle.size > _MOST_BLOCKS:  # the hardest, still in the model's order
        shown = np.sort(np.argsort(angle, kind="stable")[:_MOST_BLOCKS])
    height = max(2.6, 1.3 + 0.27 * shown.size)
    figure, axes = new_axes("angle between the retain and the forget gradient (degrees; smaller is harder)", "", height=height)
    for kind, (color, label) in _COLORS.items():
        rows = np.flatnonzero(regime[shown] == kind)
        if rows.size:
            # With an edge: at 0 degrees, the hardest, a bar has no width.
            bars = axes.barh(
                rows, angle[shown][rows], color=color, edgecolor=color, linewidth=1.5, height=0.66, label=label, zorder=2
            )
            axes.bar_label(bars, fmt="%.0f", padding=4, color=GREY)
    axes.axvline(90, color=GREY, linewidth=1, linestyle="--", zorder=3)
    axes.set_yticks(range(shown.size), [plain(assessment.labels[block]) for block in shown])
    axes.set_ylim(shown.size - 0.4, -0.6)  # the first block on top
    axes.set_xlim(0, 190)  # room for the number
    axes.set_xticks(range(0, 181, 30))
    axes.grid(visible=False, axis="y")
    if shown.size < angle.size:
        axes.set_ylabel(f"the {shown.size} hardest of {angle.size} blocks")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _examples(assessment: Assessment) -> Any:
    """How many forget examples agree how much with the retain gradient."""
    cosines = assessment.cosines()
    cosines = cosines[np.isfinite(cosines)]
    figure, axes = new_axes("cosine of a forget example's gradient with the retain gradient", "forget examples")
    largest = float(np.max(np.abs(cosines), initial=0.0))
    edge = 1.0 if largest > 0.5 else max(0.1, 1.05 * largest)  # noqa: PLR2004  (large models: nearly orthogonal)
    axes.axvspan(0, edge, color=FORGET, alpha=0.08, label="harder: forgetting it hurts what is kept")
    axes.axvspan(-edge, 0, color=RETAIN, alpha=0.08, label="easier: forgetting it helps what is kept")
    if cosines.size:
        axes.hist(cosines, bins=np.linspace(-edge, edge, 41), color=GREY, edgecolor="white", linewidth=0.6, zorder=2)
        mean = float(np.mean(cosines))
        axes.axvline(mean, color="black", linewidth=1.4, zorder=3, label=f"their mean, {mean:z.2f}")
    axes.set_xlim(-edge, edge)
    axes.yaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _collateral(assessment: Assessment) -> Any:
    """The change of each retain example's loss under the planned step, largest rise first."""
    change = np.sort(assessment.retain_change[np.isfinite(assessment.retain_change)])[::-1]
    figure, axes = new_axes(
        "share of the retain examples, most threatened first", "change of its loss per unit of learning rate"
    )
    share = (np.arange(change.size) + 0.5) / max(change.size, 1)
    rises, falls = int(np.sum(change > 0)), int(np.sum(change < 0))
    for rows, color, label in (
        (slice(0, rises), FORGET, f"rises: {rises} of {change.size}"),
        (slice(change.size - falls, change.size), RETAIN, f"falls: {falls} of {change.size}"),
    ):
        if share[rows].size:
            axes.fill_between(share[rows], change[rows], color=color, alpha=0.25, linewidth=0)
            marker = "." if change.size < _FEW_EXAMPLES else None
            axes.plot(share[rows], change[rows], color=color, linewidth=1.6, marker=marker, label=label)
    axes.axhline(0.0, color=GREY, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    largest = float(np.max(np.abs(change), initial=0.0))
    if largest > 0:  # a trained model fits most examples: their changes are orders of magnitude below the largest
        axes.set_yscale("symlog", linthresh=10.0 ** (math.ceil(math.log10(largest)) - 3))
    if rises or falls:
        axes.legend()
    return figure
