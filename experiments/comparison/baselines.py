"""All methods on equal terms: the same data, batches and steps, and each with its best setting on validation data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.comparison.grid import Grid, Seeds, Setting, grid_of, searched
from experiments.comparison.modality import Modality
from experiments.comparison.progress import announced
from experiments.comparison.settings import methods_of, run_settings, seed_pairs
from experiments.comparison.summary import MODELS, Results, choose
from experiments.data.text_files import read_json


def run_baselines(modality: Modality, settings: Any, mesh: Any) -> Results:
    """Makes all runs that are missing.

    Raises:
      ValueError: for a file `chosen` without a setting of a method.
    """
    sweep, pairs = settings.sweep, seed_pairs(modality, settings)
    names = methods_of(modality, "baselines", settings)
    grid, whole = grid_of(names, pairs, sweep), grid_pairs(pairs, sweep)
    results = Results(grid, {}, {pair: {} for pair in pairs}, whole, modality.judge, searched=sweep.chosen is None)

    def add(pair: Seeds, some: list[Setting]) -> None:
        for setting in announced(some, lambda setting: _line(setting, pair)):
            record = modality.trained_record(_run_settings(settings, setting, pair), mesh)
            results.runs[pair][setting], results.models[pair] = record, record["models"]

    grid, chosen = run_and_choose(grid, add, lambda name: choose(results, name), sweep, pairs)
    results = dataclasses.replace(results, grid=grid)
    reported = [(pair, setting) for pair in pairs for setting in chosen]
    for pair, setting in announced(reported, lambda run: f"measuring {_line(run[1], run[0])}"):
        numbers = modality.all_measured(_run_settings(settings, setting, pair), mesh)
        results.runs[pair][setting] = {**results.runs[pair][setting], "measured": numbers["unlearned"]}
        results.models[pair] = {name: numbers[name] for name in MODELS}
    return results


def how_chosen(modality: Modality, settings: Any) -> str:
    """How settings were chosen, in words."""
    sweep = settings.sweep
    if sweep.chosen is not None:
        words = modality.chosen.format(seeds="the runs there")
        return f"Settings are those that {sweep.chosen} chose, on another trained model or with other seeds: {words}"
    if not sweep.grid_seeds:
        return modality.chosen.format(seeds="all seeds")
    grid_seeds = f"the runs with unlearning seed {', '.join(map(str, sweep.grid_seeds))}"
    rest = "The other seeds ran the chosen settings, and the hypervolume is of the whole grid only."
    return f"{modality.chosen.format(seeds=grid_seeds)} {rest}"


def grid_pairs(pairs: tuple[Seeds, ...], sweep: Any) -> tuple[Seeds, ...]:
    """The seeds at which the whole grid is run."""
    return tuple(pair for pair in pairs if pair[1] in (sweep.grid_seeds or sweep.seeds))


def _run_settings(settings: Any, setting: Setting, pair: Seeds) -> Any:
    """The settings of one run."""
    return run_settings(settings, pair, **vars(setting))


def _line(setting: Setting, pair: Seeds) -> str:
    """A run in one line."""
    return f"{setting.describe()}, seeds {pair[0]} and {pair[1]}"


def run_and_choose(
    grid: Grid,
    add: Callable[[Seeds, list[Setting]], None],
    choose: Callable[[str], Setting],
    sweep: Any,
    pairs: tuple[Seeds, ...],
    *,
    counts: Callable[[Setting], bool] = lambda setting: True,  # noqa: ARG005
) -> tuple[Grid, list[Setting]]:
    """Runs the grid at the seeds that have all of it, or what another sweep chose; then what is chosen at the other seeds.

    Args:
      grid: the grid to begin with.
      add: runs some settings at a pair of seeds.
      choose: as in `searched`.
      sweep: the settings of the sweep.
      pairs: all seeds.
      counts: as in `searched`.

    Returns:
      The grid at the end, and the chosen setting of each method.
    """
    whole = grid_pairs(pairs, sweep)

    def add_to_all(some: list[Setting]) -> None:
        for pair in whole:
            add(pair, some)

    if sweep.chosen is None:
        grid, chosen = searched(grid, add_to_all, choose, extensions=sweep.extensions, counts=counts)
    else:
        chosen = chosen_before(sweep.chosen, grid.methods)
        add_to_all(chosen)
    for pair in pairs:
        if pair not in whole:
            add(pair, chosen)
    return grid, chosen


def chosen_before(path: Path, names: tuple[str, ...]) -> list[Setting]:
    """The settings that a file says were chosen."""
    if not path.exists():
        raise ValueError(f"chosen: got {path}, which is not there, expected a file that a comparison of all methods left")
    rows = read_json(path).get("methods", {})
    for name in names:
        if "setting" not in rows.get(name, {}):
            raise ValueError(f"chosen: got {path}, which has no setting of {name}, expected one of every method")
    return [Setting(**rows[name]["setting"]) for name in names]
