"""The results of a comparison: which setting of each method is chosen, and its numbers."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from experiments.comparison.grid import Grid, Seeds, Setting, settings_of
from experiments.comparison.pareto import hypervolume
from experiments.runs.unlearning import Record

Measured = Mapping[str, Any]
T = TypeVar("T")
Spread = tuple[float, float | None]  # mean and standard deviation
MODELS = ("full", "retrained")
REFERENCE = (1.0, 0.0)  # the worst: the whole forget set is answered right, nothing of the retain set
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
      chosen_by: the same for the gap by which settings are chosen. None of `reported` that is of test data may be here.
      ties: of equal gaps the setting is chosen whose mean over these is the smallest.
      front: what a Pareto picture has on its axes, of what is forgotten (left is better) and of what is kept (up is better).
      axes: their labels.
    """

    reported: tuple[str, ...]
    chosen_by: tuple[str, ...]
    ties: tuple[str, ...]
    front: tuple[str, str]
    axes: tuple[str, str]


OF_ACCURACY = Judge(
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
      grid: all settings, and the seeds at which they are run.
      models: by seed: `full` and `retrained`.
      runs: by seed and setting.
      grid_seeds: those at which all settings were run, and by which they are chosen; at the others only the chosen ones were.
        Default: all.
      judge: the numbers that decide.
      searched: whether settings were chosen here; else only those that were chosen elsewhere were run.
    """

    grid: Grid
    models: dict[Seeds, Mapping[str, Measured]]
    runs: dict[Seeds, dict[Setting, Record]]
    grid_seeds: tuple[Seeds, ...] = ()
    judge: Judge = OF_ACCURACY
    searched: bool = True

    def over_seeds(self, value: Callable[[Seeds], T]) -> list[T]:
        """A number of every seed."""
        return [value(seed) for seed in self.grid.seeds]

    @property
    def whole(self) -> tuple[Seeds, ...]:
        """The seeds at which all settings were run."""
        return self.grid_seeds or self.grid.seeds

    def over_grid(self, value: Callable[[Seeds], float]) -> list[float]:
        """A number of every seed at which all settings were run."""
        return [value(seed) for seed in self.whole]

    @property
    def most(self) -> int:
        """How many evaluations a whole run has."""
        ways = [run["way"] for runs in self.runs.values() for run in runs.values()]
        return max(len(way[self.judge.front[0]]["accuracy"]) for way in ways)

    def settings(self, method: str) -> list[Setting]:
        """The settings of one method."""
        return settings_of(list(self.runs[self.whole[0]]), method)


def score(results: Results, setting: Setting) -> tuple[float, float]:
    """What a setting is chosen by, on validation data alone: its mean gap, and of equal gaps the mean of the judge's `ties`."""
    judge = results.judge

    def distance(seed: Seeds) -> float:
        mean_gap = gap(results.runs[seed][setting]["measured"], results.models[seed]["retrained"], judge.chosen_by)
        return math.inf if mean_gap is None else mean_gap

    def tie(seed: Seeds) -> float:
        values = [results.runs[seed][setting]["measured"][name] for name in judge.ties]
        return math.inf if None in values else float(np.mean(values))

    # Accuracies of some hundred images: gaps that differ by less than rounding are equal.
    return round(float(np.mean(results.over_grid(distance))), 9), float(np.mean(results.over_grid(tie)))


def choose(results: Results, method: str) -> Setting:
    """The setting of a method with the best score."""
    return min(results.settings(method), key=lambda setting: score(results, setting))


def points(results: Results, method: str, seed: Seeds) -> np.ndarray:
    """`[points, 2]`: accuracy on the forget and the retain set, of every setting and every evaluation during unlearning."""
    ways = [results.runs[seed][setting]["way"] for setting in results.settings(method)]
    pairs = [np.stack([way[part]["accuracy"] for part in results.judge.front], axis=-1) for way in ways]
    # The last point of a run that ended early is repeated, so that all seeds have the same number of points.
    return np.concatenate([np.pad(pair, ((0, results.most - len(pair)), (0, 0)), mode="edge") for pair in pairs])


def summarise(results: Results) -> dict[str, dict[str, Any]]:
    """For each model and method its setting, and of every number the mean and the standard deviation over seeds."""
    rows = {name: {"numbers": _numbers(results, lambda seed, name=name: results.models[seed][name])} for name in MODELS}
    for method in results.grid.methods:
        chosen = choose(results, method)
        numbers = _numbers(results, lambda seed, chosen=chosen: results.runs[seed][chosen]["measured"])
        rows[method] = {
            "setting": dataclasses.asdict(chosen),
            "at the edge": results.searched and results.grid.edge(chosen) != 0,
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


def _numbers(results: Results, of: Callable[[Seeds], Measured]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of all that was measured."""
    seeds = results.grid.seeds
    names = of(seeds[0])
    numbers = {name: mean_and_deviation([of(seed)[name] for seed in seeds]) for name in names}
    gaps = results.over_seeds(lambda seed: gap(of(seed), results.models[seed]["retrained"], results.judge.reported))
    return {**numbers, "gap": mean_and_deviation(gaps)}


def mean_and_deviation(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation, or None for a single value; None if a value is missing."""
    if any(value is None for value in values):
        return None
    array = np.array(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None
