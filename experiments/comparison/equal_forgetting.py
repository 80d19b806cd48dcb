"""All methods at equal forgetting: what it costs to bring the forget set to the loss of unseen data.

Every run ends as soon as the loss of the whole forget set reaches the level, or with its budget of steps. Each method is
reported at the setting that reaches the level at the least cost on validation data; no retrained model is needed for that.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.comparison.baselines import grid_pairs, run_and_choose
from experiments.comparison.cost_curves import CostCurve, cost_curve, curves_picture
from experiments.comparison.grid import Grid, Seeds, Setting, grid_of, settings_of
from experiments.comparison.modality import Modality
from experiments.comparison.progress import announced
from experiments.comparison.settings import methods_of, run_settings, seed_pairs
from experiments.comparison.summary import MODELS, Spread, gap, mean_and_deviation
from experiments.comparison.tables import cell, setting_cells
from experiments.runs.unlearning import Record
from hamu_jax import report

EXPLAINED = (
    "Every run ends as soon as the mean loss of the whole forget set reaches the level ({level}), or after {steps} steps; "
    "this loss is evaluated every {every} step(s). A cost is the rise of a loss, or the fall of an accuracy, from the full "
    "model to the end of the run; negative: the model became better. Numbers are mean ± standard deviation over those of "
    "the {runs} runs that reached the level; `reached` says how many did. A run has its own seed of unlearning, or its own "
    "trained model. The mean cost on the way is the area under the curve of validation cost against forget loss, divided by"
    " the length of the way. Seconds are CPU seconds of the whole run, with compilation and evaluations. The gap is the "
    "mean distance to the retrained model's accuracies; it decides nothing. `forget-...` are calls of `hamu_jax.forget`, "
    "which go on after the level to repair the retain loss, with the validation set as their held-out data."
)
CHOSEN = (
    "Every method had {count} settings: {rates} learning rates from {lowest:g} to {highest:g} times {second} weights or "
    "required improvements, or {count} learning rates over the same range; they were run at {seeds}. {extended} The chosen "
    "setting reaches the level in most runs; of several that do, it has the smallest validation cost. Calls of "
    "`hamu_jax.forget` have no setting to choose."
)
EXTENDED = "The grid was extended for all methods while the setting of one that reaches the level was best at its edge."
CAPTION = (
    "Each panel is a method at its chosen setting, in grey all others: the rise of the validation loss over the share of "
    "the way to the level. The line is the mean over runs, the band one standard deviation."
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run at equal forgetting.

    Attributes:
      reached: whether the forget loss reached the level.
      numbers: costs, steps, seconds, by column.
      curve: cost over forgetting.
    """

    reached: bool
    numbers: dict[str, float | None]
    curve: CostCurve


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All runs.

    Attributes:
      grid: all settings, at the end of the search.
      whole: the seeds at which all settings were run.
      chosen: the setting of each method.
      outcomes: by seed and setting.
      models: by seed, what the full and the retrained model cost.
      levels: by seed.
    """

    grid: Grid
    whole: tuple[Seeds, ...]
    chosen: dict[str, Setting]
    outcomes: dict[Seeds, dict[Setting, Outcome]]
    models: dict[Seeds, dict[str, dict[str, float | None]]]
    levels: dict[Seeds, float]


def equal_forgetting(modality: Modality, name: str, settings: Any, mesh: Any) -> tuple[dict[str, Any], list[str], Figure]:
    """Makes all runs that are missing: numbers, sections of text, a picture."""
    comparison = compare(modality, name, settings, mesh)
    rows = summarise(comparison)
    ends = min(comparison.levels.values()), max(comparison.levels.values())
    explained = EXPLAINED.format(
        every=_evaluate_every(settings),
        level=" to ".join(dict.fromkeys(f"{end:.3g}" for end in ends)),
        steps=_steps(settings),
        runs=len(comparison.grid.seeds),
    )
    columns = tuple(next(iter(rows.values()))["numbers"])
    sections = [
        f"# All methods at equal forgetting, {modality.label(settings.problem)}",
        explained,
        _how_chosen(comparison, settings.sweep),
        _table(rows, columns),
        "## Chosen settings",
        _chosen_table(rows),
        CAPTION,
    ]
    curves = {
        method: [comparison.outcomes[pair][setting].curve for pair in comparison.grid.seeds]
        for method, setting in comparison.chosen.items()
    }
    return {"methods": rows, "levels": list(comparison.levels.values())}, sections, curves_picture(curves)


def compare(modality: Modality, name: str, settings: Any, mesh: Any) -> Comparison:
    """Makes all runs that are missing, and chooses a setting for each method.

    Raises:
      ValueError: for a file `chosen` without a setting of a method.
    """
    sweep, pairs = settings.sweep, seed_pairs(modality, settings)
    names = methods_of(modality, name, settings)
    whole = grid_pairs(pairs, sweep)
    outcomes: dict[Seeds, dict[Setting, Outcome]] = {pair: {} for pair in pairs}
    models: dict[Seeds, dict[str, dict[str, float | None]]] = {}
    levels: dict[Seeds, float] = {}

    def add(pair: Seeds, some: Sequence[Setting]) -> None:
        for setting in announced(some, lambda setting: f"{setting.describe()}, seeds {pair[0]} and {pair[1]}"):
            run = run_settings(settings, pair, evaluate_every=_evaluate_every(settings), **vars(setting))
            if pair not in levels:
                modality.train_missing(run, mesh)
                levels[pair] = modality.level(run, mesh)
            record = modality.trained_record(run_settings(run, pair, level=levels[pair]), mesh)
            models[pair] = {model: _numbers(modality, record, record["models"][model]) for model in MODELS}
            outcomes[pair][setting] = outcome(modality, record, levels[pair])

    def choose(method: str) -> Setting:
        return min(settings_of(list(outcomes[whole[0]]), method), key=lambda x: score([outcomes[pair][x] for pair in whole]))

    def reaches(setting: Setting) -> bool:
        return any(outcomes[pair][setting].reached for pair in whole)

    grid, chosen = run_and_choose(grid_of(names, pairs, sweep), add, choose, sweep, pairs, counts=reaches)
    return Comparison(grid, whole, dict(zip(names, chosen, strict=True)), outcomes, models, levels)


def outcome(modality: Modality, record: Record, level: float) -> Outcome:
    """What a run's record says."""
    curve = cost_curve(record["way"], level)
    numbers = _numbers(modality, record, record["measured"])
    numbers |= {"mean cost on the way": curve.mean, "steps": float(record["steps"]), "seconds": record["seconds"]}
    return Outcome(record["reached"], numbers, curve)


def score(outcomes: Sequence[Outcome]) -> tuple[float, float, float]:
    """What a setting is chosen by, the smallest: how many runs miss the level, then the mean cost on validation data.

    Where none reaches it, the setting that forgets most.
    """
    reached = [run.numbers[_first(run)] for run in outcomes if run.reached]
    ends = mean_and_deviation([run.numbers["forget loss"] for run in outcomes])
    cost = mean_and_deviation(reached) if reached else None
    return len(outcomes) - len(reached), float("inf") if cost is None else cost[0], 0.0 if ends is None else -ends[0]


def summarise(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """A row for the retrained model and for each method: its setting, and mean and deviation of every number."""
    pairs = comparison.grid.seeds
    empty = dict.fromkeys(next(iter(comparison.outcomes[pairs[0]].values())).numbers)
    rows: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        numbers = [empty | comparison.models[pair][model] for pair in pairs]
        rows[model] = {"numbers": {column: mean_and_deviation([row[column] for row in numbers]) for column in empty}}
    for method, setting in comparison.chosen.items():
        runs = [comparison.outcomes[pair][setting] for pair in pairs]
        reached = [run.numbers for run in runs if run.reached]
        rows[method] = {
            "setting": dataclasses.asdict(setting),
            "at the edge": comparison.grid.edge(setting) if reached else 0,
            "reached": len(reached),
            "runs": len(runs),
            "numbers": {column: mean_and_deviation([run[column] for run in reached]) if reached else None for column in empty},
        }
    return rows


def _numbers(modality: Modality, record: Record, measured: Mapping[str, Any]) -> dict[str, float | None]:
    """What a model costs: the rise of losses, the fall of accuracies, its forget loss, its distance to the retrained model."""
    full, numbers = record["models"]["full"], {}
    for title, column in modality.costs.items():
        numbers[f"{title} cost"] = _difference(measured[column], full[column])
    for title, column in modality.lost.items():
        numbers[title] = _difference(full[column], measured[column])
    distance = gap(measured, record["models"]["retrained"], modality.judge.reported)
    return {**numbers, "forget loss": measured["forget/loss"], "gap": distance}


def _difference(first: float | None, second: float | None) -> float | None:
    """A difference of two numbers, unless one of them was not finite."""
    return None if first is None or second is None else first - second


def _first(run: Outcome) -> str:
    """The column by which settings are chosen."""
    return next(iter(run.numbers))


def _how_chosen(comparison: Comparison, sweep: Any) -> str:
    """How settings were chosen, in words."""
    if sweep.chosen is not None:
        return f"Settings are those that {sweep.chosen} chose."
    grid = comparison.grid
    return CHOSEN.format(
        count=len(grid.learning_rates) * len(grid.weights),
        rates=len(grid.learning_rates),
        lowest=grid.learning_rates[0],
        highest=grid.learning_rates[-1],
        second=len(grid.weights),
        seeds=f"{len(comparison.whole)} of the {len(grid.seeds)} runs",
        extended=EXTENDED if sweep.extensions else "The grid was not extended.",
    )


def _steps(settings: Any) -> Any:
    """The budget, in words: steps, or for language models epochs."""
    method = settings.method
    return f"{method.epochs} epochs of" if method.steps is None else method.steps


def _evaluate_every(settings: Any) -> int:
    """The steps between two evaluations: one, unless the settings say otherwise."""
    return settings.method.evaluate_every or 1


def _table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A row per method, the cheapest first; the two models above."""

    def order(item: tuple[str, Mapping[str, Any]]) -> tuple[float, float]:
        row = item[1]
        first: Spread | None = row["numbers"][columns[0]]
        return (-1.0, 0.0) if "runs" not in row else (row["runs"] - row["reached"], float("inf") if first is None else first[0])

    cells = [
        [name, f"{row['reached']} of {row['runs']}" if "runs" in row else "", *(cell(row["numbers"][x]) for x in columns)]
        for name, row in sorted(rows.items(), key=order)
    ]
    return report.table(["method", "reached", *columns], cells)


def _chosen_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The chosen setting of every method."""
    notes = {-1: "lowest learning rate of the grid", 0: "", 1: "highest learning rate of the grid"}
    cells = [
        [name, *setting_cells(row["setting"]), notes[row["at the edge"]]] for name, row in rows.items() if "setting" in row
    ]
    return report.table(["method", "learning rate", "improvement", "weight", ""], cells)
