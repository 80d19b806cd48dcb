"""A sweep along one setting: its runs, its table and its figure."""

import dataclasses
import itertools
from typing import Any

from matplotlib.figure import Figure

from experiments.comparison.summary import Spread, mean_and_deviation, table
from experiments.comparison.config import Kind, Varied, chosen_methods, run_settings, trained_with, values
from experiments.comparison.progress import told
from experiments.runs.unlearning import Record


@dataclasses.dataclass(frozen=True)
class Point:
    """A method at a value: a number with its spread over seeds for every column; likewise the two models there."""

    method: str
    value: Any
    numbers: dict[str, Spread | None]
    models: dict[str, dict[str, Spread | None]]


def run(name: str, config: Varied) -> list[Point]:
    """Makes all runs that are not there."""
    kind, found = config.kind, []
    axis = kind.axes[name]
    records: dict[tuple[str, Any], list[Record]] = {}
    wanted = list(itertools.product(trained_with(config), values(name, config), config.seeds, chosen_methods(name, config)))
    for training, value, seed, method in told(wanted, lambda one: _words(axis.field, *one)):
        changed = {**axis.fixed, axis.field: value, "method": method, "seed": seed, "training": training}
        records.setdefault((method, value), []).append(kind.ensure(run_settings(config, **changed)))
    for (method, value), of_seeds in sorted(records.items(), key=lambda item: chosen_methods(name, config).index(item[0][0])):
        both = {model: _numbers([record["models"][model] for record in of_seeds]) for model in ("full", "retrained")}
        found.append(Point(method, value, _numbers([kind.row(record) for record in of_seeds]), both))
    return found


def markdown(name: str, kind: Kind, points: list[Point]) -> str:
    """The table."""
    rows = {f"{point.method}, {kind.axes[name].field} {point.value}": {"numbers": point.numbers} for point in points}
    return table(rows, kind.along)


def picture(name: str, kind: Kind, points: list[Point]) -> Figure:
    """Over the setting, a line a method; dashed the retrained model."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    shown = list(dict.fromkeys(point.value for point in points))
    for axes, (label, column) in zip(figure.subplots(1, len(kind.panels)), kind.panels.items(), strict=True):
        for method in dict.fromkeys(point.method for point in points):
            here = [point for point in points if point.method == method and point.numbers[column] is not None]
            middle, spread = zip(*(point.numbers[column] for point in here), strict=True) if here else ((), ())
            bars = None if None in spread else spread
            axes.errorbar([shown.index(point.value) for point in here], middle, bars, marker="o", capsize=3, label=method)
        if column != "gap":
            levels = {point.value: point.models["retrained"][column] for point in points}
            axes.plot([shown.index(v) for v in levels], [x[0] for x in levels.values() if x], "k--", label="retrained")
        axes.set_xticks(range(len(shown)), [str(value) for value in shown])
        axes.set_xlabel(kind.axes[name].field)
        axes.set_title(label)
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    return figure


def _words(field: str, training: Any, value: Any, seed: int, method: str) -> str:
    """A run in a line."""
    return f"{method}, {field} {value}, seeds {training.seed} and {seed}"


def _numbers(rows: list[dict[str, Any]]) -> dict[str, Spread | None]:
    """Mean and deviation over seeds."""
    return {column: mean_and_deviation([row[column] for row in rows]) for column in rows[0]}
