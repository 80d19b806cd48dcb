"""The pictures of a run towards a level: its path, its losses before and after, its trust region."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from hamu_jax._base import validate
from hamu_jax._base.history import History
from hamu_jax._driver.trust_region import GOOD, POOR, REFUSED
from hamu_jax.report._plots import FORGET, GREY, RETAIN, new_axes, plain

_UNSEEN, _HELD_OUT = "#009e73", "#cc79a7"
WIDTH, HEIGHT = 4.8, 4.4  # narrow, so that its letters can be read on a phone
_BINS = 24
_WIDE = 100.0  # losses that differ by more than this factor are drawn on logarithmic axes


def plot_path(
    history: History,
    level: float | Sequence[float] | None = None,
    width: float | Sequence[float] | None = None,
    *,
    returned: int | None = None,
) -> Any:
    """Both losses over steps, the level of the forget loss as a band.

    Args:
      history: of a run. It draws the columns that it has of `forget_loss` and `retain_loss` (of batches, thin) and
        `forget/loss`, `unseen/loss`, `retain/loss` and `held_out/loss` (of whole sets).
      level: the forget loss that was wanted, or one for each request.
      width: how far from its level a forget loss may be, for each level: half of the band's width. None: a tenth of the level.
      returned: the step whose parameters were returned, marked by a dotted line.

    Returns:
      A matplotlib figure with two axes: the forget side above, the retain side below.

    Raises:
      ValueError: for levels or widths that are not finite, or widths that do not belong to the levels.
      ImportError: naming the extra, if matplotlib is missing.
    """
    levels = np.zeros(0) if level is None else validate.numbers("level", np.atleast_1d(np.asarray(level)))
    widths = 0.1 * np.abs(levels) if width is None else validate.numbers("width", np.atleast_1d(np.asarray(width)))
    if widths.shape != levels.shape:
        raise ValueError(f"width: got {widths.size} numbers, expected {levels.size} as in level")
    figure, (forget, retain) = new_axes("step", ("loss, to be forgotten", "loss, to be kept"), width=WIDTH, height=HEIGHT)
    for place, (middle, reach) in enumerate(zip(levels.tolist(), widths.tolist(), strict=True)):
        label = f"level {middle:.3g}" if levels.size == 1 else f"{levels.size} levels" if place == 0 else None
        alpha = max(0.18 / levels.size, 0.04)
        forget.axhspan(middle - reach, middle + reach, color=_UNSEEN, alpha=alpha, linewidth=0, label=label)
    for axes, columns in (
        (
            forget,
            (("forget_loss", "a batch", FORGET), ("forget/loss", "forget set", FORGET), ("unseen/loss", "unseen", _UNSEEN)),
        ),
        (
            retain,
            (
                ("retain_loss", "a batch", RETAIN),
                ("retain/loss", "retain set", RETAIN),
                ("held_out/loss", "held out", _HELD_OUT),
            ),
        ),
    ):
        drawn = [_draw(axes, history, *column) for column in columns]
        _scale(axes, np.concatenate([*drawn, [] if axes is retain else levels]))
        if returned is not None:
            axes.axvline(returned, color="black", linewidth=1, linestyle=":", label="returned")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", loc="best")
    return figure


def plot_histograms(before: Mapping[str, Float[Any, " n"]], after: Mapping[str, Float[Any, " n"]]) -> Any:
    """The losses of single examples of each set, before and after: forgotten looks like unseen.

    Args:
      before: the losses `[n]` of the original model, by the name of the set: `forget`, `unseen`, `retain`, or others. Those
        that are not finite are left out, and counted in the legend. On a logarithmic axis the first bin holds everything below.
      after: the losses of the unlearned model, likewise.

    Returns:
      A matplotlib figure with two axes, before above and after below, with the same horizontal axis.

    Raises:
      ValueError: for losses that are not one-dimensional.
      ImportError: naming the extra, if matplotlib is missing.
    """
    sides = {name: {label: _losses(f"{name}[{label!r}]", values) for label, values in side.items()}
             for name, side in (("before", before), ("after", after))}  # fmt: skip
    figure, both = new_axes("loss of an example", ("share, before", "share, after"), width=WIDTH, height=HEIGHT)
    edges, scale = _edges([_finite(values) for side in sides.values() for values in side.values() if _finite(values).size])
    for axes, side in zip(both, sides.values(), strict=True):
        for place, (label, values) in enumerate(side.items()):
            known = np.clip(_finite(values), edges[0], edges[-1])
            missing = values.size - known.size
            words = plain(label) + (f" ({missing} not finite)" if missing else "")
            color = {"forget": FORGET, "unseen": _UNSEEN, "retain": RETAIN}.get(
                label, ("#cc79a7", "#e69f00", "#56b4e9")[place % 3]
            )
            weights = np.full(known.size, 1 / max(values.size, 1))
            axes.hist(known, bins=edges, weights=weights, color=color, alpha=0.28, histtype="stepfilled", linewidth=0)
            axes.hist(known, bins=edges, weights=weights, color=color, histtype="step", linewidth=1.4, label=words)
        axes.set_xscale(scale)
        if side:
            handles, labels = axes.get_legend_handles_labels()
            axes.legend(handles, labels, fontsize="small")
    return figure


def plot_trust_region(history: History) -> Any:
    """The scale of each step, whether it was taken, and by how much its promise was missed (see `hamu_jax.TrustRegion`).

    Args:
      history: of a run with a trust region: the columns `step_scale`, `step_accepted` and `trust_error`.

    Returns:
      A matplotlib figure with two axes: the scale above, the error below, with the errors that refuse a step and those after
      which the scale grows.

    Raises:
      KeyError: if the history lacks one of the columns.
      ImportError: naming the extra, if matplotlib is missing.
    """
    steps, rate, taken, error = (history.column(name) for name in ("step", "step_scale", "step_accepted", "trust_error"))
    figure, (above, below) = new_axes("step", ("scale of the step", "error of the promise"), width=WIDTH, height=HEIGHT)
    above.plot(steps, rate, color=GREY, linewidth=1, drawstyle="steps-post", zorder=1)
    for wanted, color, marker, label in ((1, RETAIN, ".", "taken"), (0, FORGET, "x", "refused")):
        rows = taken == wanted
        above.plot(steps[rows], rate[rows], marker, color=color, markersize=5, label=f"{label}: {int(rows.sum())}")
        shown = rows & np.isfinite(error) & (error > 0)
        below.plot(steps[shown], error[shown], marker, color=color, markersize=5)
    _scale(above, rate)
    above.legend(fontsize="small")
    below.set_yscale("log")
    known = error[np.isfinite(error) & (error > 0)]
    low, high = (known.min(), known.max()) if known.size else (GOOD, REFUSED)
    low, high = min(0.5 * low, GOOD / 2), max(2 * high, 2 * REFUSED)
    below.axhspan(REFUSED, high, color=FORGET, alpha=0.12, linewidth=0)
    below.axhspan(low, GOOD, color=RETAIN, alpha=0.12, linewidth=0)
    below.axhline(POOR, color=GREY, linewidth=0.8, linestyle="--")
    below.set_ylim(low, high)
    for position, words in ((REFUSED * 1.08, "refused"), (GOOD / 1.08, "grows")):
        below.text(0.99, position, words, transform=below.get_yaxis_transform(), ha="right",
                   va="bottom" if words == "refused" else "top", fontsize="small", color=GREY)  # fmt: skip
    return figure


def _column(history: History, name: str) -> Float[np.ndarray, " rows"]:
    """The finite values of a column; none if the history does not have it."""
    if not any(name in row for row in history.rows):
        return np.zeros(0)
    return _finite(history.column(name))


def _draw(axes: Any, history: History, name: str, label: str, color: str) -> Float[np.ndarray, " n"]:
    """Draws a column if the history has it: batches thin, whole sets with markers; returns what was drawn."""
    if not _column(history, name).size:
        return np.zeros(0)
    steps, values = history.measured(name)
    known = np.isfinite(values)
    style = {"linewidth": 0.9, "alpha": 0.4} if label == "a batch" else {"linewidth": 1.6, "marker": "o", "markersize": 3}
    axes.plot(steps[known], values[known], color=color, label=label, **style)
    return values[known]


def _scale(axes: Any, values: Float[np.ndarray, " n"]) -> None:
    """A logarithmic axis for positive values that differ by orders of magnitude."""
    known = _finite(values)
    if known.size and known.min() > 0 and known.max() > _WIDE * known.min():
        axes.set_yscale("log")


def _losses(name: str, values: Any) -> Float[np.ndarray, " n"]:
    """Losses of single examples in float64."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: got shape {array.shape}, expected [n], one loss per example")
    return array


def _finite(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The finite values."""
    return values[np.isfinite(values)]


def _edges(sets: Sequence[Float[np.ndarray, " n"]]) -> tuple[Float[np.ndarray, " edges"], str]:
    """Edges of bins, and their scale: logarithmic where most losses of a set would share the first; lower ones are in it."""
    if not sets:
        return np.linspace(0.0, 1.0, _BINS + 1), "linear"
    values = np.concatenate(sets)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high > 0 and any(np.median(losses) < high / _BINS for losses in sets):
        return np.geomspace(max(low, float(np.quantile(values, 0.02)), 1e-6 * high), high, _BINS + 1), "log"
    spread = (high - low) or max(abs(high), 1.0)
    return np.linspace(low - 0.01 * spread, high + 0.01 * spread, _BINS + 1), "linear"
