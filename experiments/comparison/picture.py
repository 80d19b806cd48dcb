"""The picture of a comparison: what each method can reach."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.comparison.pareto import pareto_front
from experiments.comparison.summary import MODELS, Results, points


def caption(*, searched: bool = True) -> str:
    """What the picture shows."""
    words = (
        "Each panel is a method, in grey the fronts of all others: points are its settings and evaluations during unlearning "
        "(mean over seeds), the line is its Pareto front, the diamond its chosen setting; square: full model, star: retrained"
    )
    return f"{words}; in brackets: hypervolume." if searched else f"{words}."


def fronts_picture(results: Results, rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A panel per method: its points and its front over the mean of seeds, the chosen setting, full and retrained."""
    names, columns = results.grid.methods, 6
    height = -(-len(names) // columns)
    figure = Figure(figsize=(12, 2.1 * height + 0.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    clouds = {name: np.mean(results.over_grid(lambda seed, name=name: points(results, name, seed)), axis=0) for name in names}
    forgotten, retained = (f"{part}/accuracy" for part in results.judge.front)
    lowest = min(rows[name]["numbers"][retained][0] for name in ("full", *names))
    full = rows["full"]["numbers"][retained][0]
    for axes, name in zip(panels, names, strict=False):
        for cloud in clouds.values():
            _front(axes, cloud, color="#cccccc", linewidth=0.8)
        marked = {model: tuple(rows[model]["numbers"][x][0] for x in (forgotten, retained)) for model in (*MODELS, name)}
        volume = rows[name]["numbers"]["hypervolume"]
        _panel(axes, clouds[name], marked, name if volume is None else f"{name}  ({volume[0]:.3f})")
        axes.set_ylim(min(full - 0.06, lowest - 0.02), full + 0.02)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel(results.judge.axes[0])
    figure.supylabel(textwrap.fill(results.judge.axes[1], 30))  # a single row of panels is not high
    return figure


def _panel(axes: Any, cloud: np.ndarray, marked: Mapping[str, tuple[float, ...]], title: str) -> None:
    """One method: all its points, with marks for the two models and the chosen setting."""
    axes.plot(*cloud.T, ".", color="#0072b2", alpha=0.35, markersize=4)
    _front(axes, cloud, color="#0072b2", linewidth=1.5)
    for point, (marker, color) in zip(marked.values(), (("s", "#767676"), ("*", "#009e73"), ("D", "#d55e00")), strict=True):
        axes.plot(*point, marker, color=color, markersize=9 if marker == "*" else 5, zorder=4)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-0.04, 1.04)
    axes.grid(alpha=0.25)


def _front(axes: Any, cloud: np.ndarray, **style: Any) -> None:
    """A Pareto front, drawn as a staircase."""
    front = cloud[pareto_front(cloud, maximise=(False, True))]
    axes.step(*np.concatenate([front, [[1.04, front[-1, 1]]]]).T, where="post", **style)
