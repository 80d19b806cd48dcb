"""A sweep along one setting: its runs, its table and its figure."""

import dataclasses
import itertools
from typing import Any

from matplotlib.figure import Figure

from experiments.comparison.modality import Modality
from experiments.comparison.progress import announced
from experiments.comparison.settings import methods_of, run_settings, seed_pairs, values
from experiments.comparison.summary import MODELS, Spread, gap, mean_and_deviation
from experiments.comparison.tables import results_table
from experiments.runs.unlearning import Record


@dataclasses.dataclass(frozen=True)
class Point:
    """A method at a value: a number with its spread over seeds for every column; the same for the two models there."""

    method: str
    value: Any
    numbers: dict[str, Spread | None]
    models: dict[str, dict[str, Spread | None]]


def run_axis(modality: Modality, name: str, settings: Any, mesh: Any) -> list[Point]:
    """Makes all runs that are missing."""
    axis, methods = modality.axes[name], methods_of(modality, name, settings)
    records: dict[tuple[str, Any], list[Record]] = {}
    pairs, shown = seed_pairs(modality, settings), values(modality, name, settings)
    runs = [  # all of one model and value together: they share model and data
        (seeds, value, method)
        for training, value in itertools.product(dict.fromkeys(pair[0] for pair in pairs), shown)
        for seeds, method in itertools.product([pair for pair in pairs if pair[0] == training], methods)
    ]
    for seeds, value, method in announced(runs, lambda run: _line(axis.setting, *run)):
        changes = {**axis.fixed, axis.setting: value, "method": method}
        record = modality.trained_record(run_settings(settings, seeds, **changes), mesh)
        records.setdefault((method, value), []).append(record)
    return [_point(modality, method, value, records[method, value]) for method in methods for value in shown]


def axis_table(modality: Modality, name: str, points: list[Point]) -> str:
    """The table."""
    setting = modality.axes[name].setting
    return results_table({f"{point.method}, {setting} {point.value}": vars(point) for point in points}, modality.along)


def axis_picture(modality: Modality, name: str, points: list[Point]) -> Figure:
    """The numbers over the setting, a line per method; dashed the retrained model, which has no gap."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    shown = list(dict.fromkeys(point.value for point in points))
    for axes, (label, column) in zip(figure.subplots(1, len(modality.panels)), modality.panels.items(), strict=True):
        for method in dict.fromkeys(point.method for point in points):
            drawn = [point for point in points if point.method == method and point.numbers[column] is not None]
            middle, spread = zip(*(point.numbers[column] for point in drawn), strict=True) if drawn else ((), ())
            bars = None if None in spread else spread
            axes.errorbar([shown.index(point.value) for point in drawn], middle, bars, marker="o", capsize=3, label=method)
        if column != "gap":
            levels = {point.value: point.models["retrained"][column] for point in points}
            axes.plot([shown.index(v) for v in levels], [x[0] for x in levels.values() if x], "k--", label="retrained")
        axes.set_xticks(range(len(shown)), [str(value) for value in shown])
        axes.set_xlabel(modality.axes[name].setting)
        axes.set_title(label)
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    return figure


def _point(modality: Modality, method: str, value: Any, records: list[Record]) -> Point:
    """The numbers of all runs of a method at a value."""
    models = {name: _numbers([record["models"][name] for record in records]) for name in MODELS}
    return Point(method, value, _numbers([_row(modality, record) for record in records]), models)


def _row(modality: Modality, record: Record) -> Record:
    """A run's numbers."""
    distance = gap(record["measured"], record["models"]["retrained"], modality.gap_along)
    return {**record["measured"], "steps": float(record["steps"]), "gap": distance}


def _line(setting: str, seeds: tuple[int, int], value: Any, method: str) -> str:
    """A run in one line."""
    return f"{method}, {setting} {value}, seeds {seeds[0]} and {seeds[1]}"


def _numbers(rows: list[dict[str, Any]]) -> dict[str, Spread | None]:
    """Mean and deviation over seeds."""
    return {column: mean_and_deviation([row[column] for row in rows]) for column in rows[0]}
