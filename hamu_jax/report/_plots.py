"""The report's pictures, as matplotlib figures (nothing global is touched)."""

import io
import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hamu_jax._base.history import History, write_bytes_whole
from hamu_jax._base.optional import require
from hamu_jax._transform.trade_off import TradeOff

RETAIN, FORGET, GREY = "#0072b2", "#d55e00", "#767676"  # distinguishable for colour-blind readers (Okabe and Ito)
_CYCLE = (RETAIN, FORGET, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

CAPTIONS = {
    "accuracy": "What the model keeps and what it forgets, step by step; dashed: a model that never saw the forget set.",
    "hardness": "Hardness of each step: at or below kappa_1 forgetting is free, above kappa_2 the retain loss must rise.",
    "promises": "The change of the forget loss that each step promised to first order, and what it did.",
    "trade_off": "The least change of the retain loss that a given rise of the forget loss costs, at the start.",
}


def plot_evaluations(history: History, watched: Mapping[str, str], reference: Mapping[str, float]) -> Any:
    """Evaluated columns over steps.

    Args:
      history: of a run with an `Evaluation`.
      watched: label to column.
      reference: label to a level that is drawn dashed in the same colour.

    Returns:
      A matplotlib figure.

    Raises:
      ImportError: naming the extra, if matplotlib is missing.
    """
    kinds = {column.rsplit("/", 1)[-1] for column in watched.values()}
    figure, axes = new_axes("step", plain(kinds.pop()) if len(kinds) == 1 else "value")
    shown: list[float] = []
    for color, (label, column) in zip(itertools.cycle(_CYCLE), watched.items(), strict=False):
        steps, values = history.measured(column)
        axes.plot(steps, values, color=color, label=plain(label), marker="o", markersize=3)
        shown += values[np.isfinite(values)].tolist()
        if label in reference:
            axes.axhline(reference[label], color=color, linestyle="--", linewidth=1)
            shown.append(reference[label])
    if all(0 <= value <= 1 for value in shown):
        axes.set_ylim(-0.03, 1.03)
    if watched:
        axes.legend()
    return figure


def plot_hardness(history: History) -> Any:
    """`kappa` of the whole model against `kappa_1` and `kappa_2` over steps, in units of `|g_r| |g_f|` where all are cosines.

    Args:
      history: of any run.

    Returns:
      A matplotlib figure.

    Raises:
      ImportError: naming the extra, if matplotlib is missing.
    """
    figure, axes = new_axes("step", "hardness as a cosine")
    steps, scale = history.column("step"), history.column("retain_norm") * history.column("forget_norm")
    scale = np.where(scale > 0, scale, np.nan)  # a gap where there is no angle
    cosine, easy, hard = (history.column(name) / scale for name in ("kappa", "kappa_1", "kappa_2"))
    axes.fill_between(steps, -1, np.clip(easy, -1, 1), color=RETAIN, alpha=0.12, label="easy: forgetting is free")
    axes.fill_between(steps, np.clip(hard, -1, 1), 1, color=FORGET, alpha=0.12, label="the retain loss must rise")
    axes.plot(steps, cosine, color="black", linewidth=1.2, label=r"$\kappa$")
    axes.plot(steps, easy, color=RETAIN, linestyle="--", linewidth=1, label=r"$\kappa_1$")
    axes.plot(steps, hard, color=FORGET, linestyle="--", linewidth=1, label=r"$\kappa_2$")
    axes.set_ylim(-1, 1)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def plot_promises(history: History) -> Any:
    """Promised against measured change of the forget loss at every step that was measured.

    Args:
      history: of a run with `measure_every` above 0.

    Returns:
      A matplotlib figure.

    Raises:
      ImportError: naming the extra, if matplotlib is missing.
    """
    figure, axes = new_axes("promised change of the forget loss", "measured change")
    columns = np.stack([history.column(name) for name in ("step", "forget_promised", "forget_measured")])
    steps, promised, measured = columns[:, ~np.isnan(columns).any(axis=0)]
    low, high = min(promised.min(), measured.min()), max(promised.max(), measured.max())
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, label="promise kept exactly")
    points = axes.scatter(promised, measured, c=steps, cmap="viridis", s=18, zorder=3)
    if low > 0:  # losses grow by orders of magnitude while something is forgotten
        axes.set_xscale("log")
        axes.set_yscale("log")
        if high < 100 * low:  # powers of ten would be few, and matplotlib's own labels between them overlap
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(require("matplotlib.ticker", "report").LogLocator(subs=(2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("{x:g}")
    figure.colorbar(points, ax=axes, label="step")
    axes.legend()
    return figure


def plot_trade_off(curve: TradeOff, learning_rate: float = 1.0) -> Any:
    """The local trade-off curve.

    Args:
      curve: of `hamu_jax.trade_off`.
      learning_rate: multiplies both axes.

    Returns:
      A matplotlib figure.

    Raises:
      ImportError: naming the extra, if matplotlib is missing.
    """
    figure, axes = new_axes("least rise of the forget loss that is asked for", "change of the retain loss")
    rise, cost = learning_rate * np.asarray(curve.improvement), learning_rate * np.asarray(curve.retain_change)
    free = learning_rate * float(curve.free)
    axes.plot(rise, cost, color="black", label="the least that it costs")
    axes.axhline(0.0, color=GREY, linewidth=0.8)
    axes.axvspan(rise[0], free, color=RETAIN, alpha=0.12, label=f"costs the retain set nothing (up to {free:.3g})")
    if free < rise[-1]:
        axes.axvspan(
            free, rise[-1], color=FORGET, alpha=0.12, label=f"the retain loss must rise (feasible up to {rise[-1]:.3g})"
        )
    if rise[0] < rise[-1]:
        axes.set_xlim(rise[0], rise[-1])
    axes.legend()
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_bytes_whole(path, buffer.getvalue())


def plain(label: str) -> str:
    """A label as text: to matplotlib, dollars enclose a formula, and what begins with an underscore is not in the legend."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def new_axes(xlabel: str, ylabel: str | tuple[str, ...], *, width: float = 7, height: float = 4.2) -> tuple[Any, Any]:
    """An empty figure with labelled axes; several labels are several axes, one above the other, with one horizontal axis."""
    figure = require("matplotlib.figure", "report").Figure(figsize=(width, height), layout="constrained")
    labels = (ylabel,) if isinstance(ylabel, str) else ylabel
    all_axes = figure.subplots(len(labels), sharex=True, squeeze=False)[:, 0]
    for axes, label in zip(all_axes, labels, strict=True):
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel(xlabel)
    return figure, all_axes[0] if isinstance(ylabel, str) else all_axes
