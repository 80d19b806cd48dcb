"""The comparison's results: which setting of each method is chosen, and what it is worth."""

import dataclasses
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

from experiments.comparison.grid import Config, Setting
from experiments.comparison.pareto import hypervolume, pareto_front
from experiments.runs.unlearning import Record

Measured = Mapping[str, Any]
T = TypeVar("T")
Spread = tuple[float, float | None]  # mean and standard deviation
MODELS = ("full", "retrained")
REFERENCE = (1.0, 0.0)  # the worst: all of what is to be forgotten is right, nothing of what is kept
COLUMNS = {
    "retain accuracy": "retain/accuracy",
    "forget accuracy": "forget/accuracy",
    "test accuracy": "test retain/accuracy",
    "test forget accuracy": "test forget/accuracy",
    "membership AUC": "test membership",
    "gap": "gap",
    "hypervolume": "hypervolume",
}
DETAILS = {
    "retain loss": "retain/loss",
    "forget loss": "forget/loss",
    "test loss": "test retain/loss",
    "test forget loss": "test forget/loss",
    "KL, test": "test retain/kl",
    "KL, test forget": "test forget/kl",
    "agreement, test": "test retain/agreement",
    "agreement, test forget": "test forget/agreement",
}


def gap(measured: Measured, retrained: Measured, names: Sequence[str]) -> float | None:
    """Mean distance to the retrained model over some numbers; None if one of them was not finite."""
    pairs = [(measured[name], retrained[name]) for name in names]
    return None if any(None in pair for pair in pairs) else float(np.mean([abs(ours - theirs) for ours, theirs in pairs]))


@dataclasses.dataclass(frozen=True)
class Judge:
    """Which numbers a comparison is made by.

    Attributes:
      reported: the reported gap is the mean distance to the retrained model over these.
      chosen_by: likewise the gap by which settings are chosen. None of `reported` that is of test data may be here.
      ties: of equal gaps the setting is chosen whose mean over these is the smallest.
      front: what a Pareto picture has on its axes, of what is forgotten (left is better) and of what is kept (up is better).
      axes: their labels.
    """

    reported: tuple[str, ...]
    chosen_by: tuple[str, ...]
    ties: tuple[str, ...]
    front: tuple[str, str]
    axes: tuple[str, str]


OF_IMAGES = Judge(
    reported=tuple(f"{part}/accuracy" for part in ("retain", "forget", "test retain", "test forget")),
    chosen_by=tuple(f"{part}/accuracy" for part in ("retain", "forget", "validation retain", "validation forget")),
    ties=("validation retain/kl", "validation forget/kl"),
    front=("test forget", "test retain"),
    axes=("accuracy on test images of what is forgotten (left is better)", "accuracy on other test images (up is better)"),
)


@dataclasses.dataclass(frozen=True)
class Results:
    """All runs: for each seed, what the models measure and what each setting's run left.

    Attributes:
      config: what was run.
      models: by seed: `full` and `retrained`.
      runs: by seed and setting.
      grid_seeds: those at which all settings were run, and by which they are chosen; at the others only the chosen ones were.
        Default: all.
      judge: the numbers that decide.
      searched: whether settings were chosen here; else only those that were chosen elsewhere were run.
    """

    config: Config
    models: dict[int, Mapping[str, Measured]]
    runs: dict[int, dict[Setting, Record]]
    grid_seeds: tuple[int, ...] = ()
    judge: Judge = OF_IMAGES
    searched: bool = True

    def over_seeds(self, value: Callable[[int], T]) -> list[T]:
        """A number of every seed."""
        return [value(seed) for seed in self.config.seeds]

    @property
    def whole(self) -> tuple[int, ...]:
        """The seeds at which all settings were run."""
        return self.grid_seeds or self.config.seeds

    def over_grid(self, value: Callable[[int], float]) -> list[float]:
        """A number of every seed at which all settings were run."""
        return [value(seed) for seed in self.whole]

    @property
    def most(self) -> int:
        """How many evaluations a whole run has."""
        ways = [run["way"] for runs in self.runs.values() for run in runs.values()]
        return max(len(way[self.judge.front[0]]["accuracy"]) for way in ways)

    def settings(self, method: str) -> list[Setting]:
        """The settings of one method."""
        return [setting for setting in self.runs[self.whole[0]] if setting.method == method]


def score(results: Results, setting: Setting) -> tuple[float, float]:
    """What a setting is chosen by, on validation data alone: its mean gap, and of equal gaps the mean of the judge's `ties`."""
    judge = results.judge

    def distance(seed: int) -> float:
        found = gap(results.runs[seed][setting]["measured"], results.models[seed]["retrained"], judge.chosen_by)
        return math.inf if found is None else found

    def tie(seed: int) -> float:
        values = [results.runs[seed][setting]["measured"][name] for name in judge.ties]
        return math.inf if None in values else float(np.mean(values))

    # Accuracies of some hundred images: gaps that differ by less than rounding are equal.
    return round(float(np.mean(results.over_grid(distance))), 9), float(np.mean(results.over_grid(tie)))


def choose(results: Results, method: str) -> Setting:
    """The setting of a method with the best score."""
    return min(results.settings(method), key=lambda setting: score(results, setting))


def points(results: Results, method: str, seed: int) -> np.ndarray:
    """`[points, 2]`: accuracy on what is forgotten and on what is kept, of every setting and every evaluation on the way."""
    ways = [results.runs[seed][setting]["way"] for setting in results.settings(method)]
    pairs = [np.stack([way[part]["accuracy"] for part in results.judge.front], axis=-1) for way in ways]
    # A run that ended early stays where it ended, so that seeds have points in common.
    return np.concatenate([np.pad(pair, ((0, results.most - len(pair)), (0, 0)), mode="edge") for pair in pairs])


def summarise(results: Results) -> dict[str, dict[str, Any]]:
    """For each model and method its setting, and of every number the mean and the standard deviation over seeds."""
    rows = {name: {"numbers": _numbers(results, lambda seed, name=name: results.models[seed][name])} for name in MODELS}
    for method in results.config.methods:
        chosen = choose(results, method)
        numbers = _numbers(results, lambda seed, chosen=chosen: results.runs[seed][chosen]["measured"])
        rows[method] = {
            "setting": dataclasses.asdict(chosen),
            "at the edge": results.searched and _at_the_edge(results.config, chosen),
            "validation gap": score(results, chosen)[0],
            "status": results.over_seeds(lambda seed, chosen=chosen: results.runs[seed][chosen]["status"]),
            "numbers": {**numbers, "hypervolume": _volume(results, method)},
        }
    return rows


def _volume(results: Results, method: str) -> Spread | None:
    """The hypervolume of the whole grid, if there was one."""
    if not results.searched:
        return None
    each = results.over_grid(lambda seed: hypervolume(points(results, method, seed), REFERENCE, maximise=(False, True)))
    return mean_and_deviation(each)


def _numbers(results: Results, of: Callable[[int], Measured]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of all that was measured."""
    seeds = results.config.seeds
    names = of(seeds[0])
    numbers = {name: mean_and_deviation([of(seed)[name] for seed in seeds]) for name in names}
    gaps = results.over_seeds(lambda seed: gap(of(seed), results.models[seed]["retrained"], results.judge.reported))
    return {**numbers, "gap": mean_and_deviation(gaps)}


def mean_and_deviation(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation, which one value alone has not; None if a value is missing."""
    if any(value is None for value in values):
        return None
    found = np.array(values, np.float64)
    return float(found.mean()), float(found.std(ddof=1)) if found.size > 1 else None


def _at_the_edge(config: Config, setting: Setting) -> bool:
    """Whether a setting is at an end of its learning rates: beyond it a better one may be."""
    rates = config.promise_learning_rates if setting.improvement else config.learning_rates
    return setting.learning_rate in (min(rates), max(rates))


def table(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str], times: Mapping[str, float] | None = None) -> str:
    """A Markdown table, a row a method: mean ± standard deviation."""
    header = ["method", *columns, *([] if times is None else ["ms a step"])]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name, row in rows.items():
        cells = [_cell(row["numbers"].get(column)) for column in columns.values()]
        if times is not None:
            cells.append(f"{times[name]:.2f}" if name in times else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Spread | None) -> str:
    """A number with its spread, if it has one; empty where there is none."""
    if value is None:
        return ""
    digits = 3 if abs(value[0]) < 10 else 1  # noqa: PLR2004
    middle, spread = (None if x is None else f"{x:.{digits}f}" for x in value)
    return f"{middle}" if spread is None else f"{middle} ± {spread}"


def chosen_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Which setting was chosen, with its validation gap."""
    lines = ["| method | learning rate | improvement | validation gap | |", "|---" * 5 + "|"]
    for name, row in rows.items():
        if "setting" in row:
            setting = row["setting"]
            improvement = f"{setting['improvement']:g}" if setting["improvement"] else ""
            notes = ["at the edge of the grid"] if row["at the edge"] else []
            notes += sorted({status for status in row["status"] if status != "completed"})
            lines.append(
                f"| {name} | {setting['learning_rate']:g} | {improvement} | {row['validation gap']:.4f} | {', '.join(notes)} |"
            )
    return "\n".join(lines)


def caption(*, searched: bool = True) -> str:
    """What `picture` shows."""
    words = (
        "Each panel is a method, in grey the fronts of all others: points are its settings and evaluations on the way (mean "
        "over seeds), the line is its Pareto front, the diamond its chosen setting; square: full model, star: retrained"
    )
    return f"{words}; in brackets: hypervolume." if searched else f"{words}."


def picture(results: Results, rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A panel a method: its points and its front over the mean of seeds, the chosen setting, full and retrained."""
    names, columns = results.config.methods, 6
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
        places = {model: tuple(rows[model]["numbers"][x][0] for x in (forgotten, retained)) for model in (*MODELS, name)}
        volume = rows[name]["numbers"]["hypervolume"]
        _panel(axes, clouds[name], places, name if volume is None else f"{name}  ({volume[0]:.3f})")
        axes.set_ylim(min(full - 0.06, lowest - 0.02), full + 0.02)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel(results.judge.axes[0])
    figure.supylabel(textwrap.fill(results.judge.axes[1], 30))  # a single row of panels is not high
    return figure


def _panel(axes: Any, cloud: np.ndarray, places: Mapping[str, tuple[float, ...]], title: str) -> None:
    """One method: all its points, and where the two models and the chosen setting are."""
    axes.plot(*cloud.T, ".", color="#0072b2", alpha=0.35, markersize=4)
    _front(axes, cloud, color="#0072b2", linewidth=1.5)
    for place, (marker, color) in zip(places.values(), (("s", "#767676"), ("*", "#009e73"), ("D", "#d55e00")), strict=True):
        axes.plot(*place, marker, color=color, markersize=9 if marker == "*" else 5, zorder=4)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-0.04, 1.04)
    axes.grid(alpha=0.25)


def _front(axes: Any, cloud: np.ndarray, **style: Any) -> None:
    """A Pareto front, as the staircase that it is."""
    front = cloud[pareto_front(cloud, maximise=(False, True))]
    axes.step(*np.concatenate([front, [[1.04, front[-1, 1]]]]).T, where="post", **style)
