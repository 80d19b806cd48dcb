"""The command `sweep` of every modality: makes the runs, and writes their table and their figure."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.comparison.axis import axis_picture, axis_table, run_axis
from experiments.comparison.baselines import how_chosen, run_baselines
from experiments.comparison.config import EQUAL
from experiments.comparison.equal_forgetting import equal_forgetting
from experiments.comparison.modality import Modality
from experiments.comparison.picture import caption, fronts_picture
from experiments.comparison.settings import check, directory_name
from experiments.comparison.summary import summarise
from experiments.comparison.tables import chosen_table, results_table
from experiments.comparison.timing import time_steps
from experiments.runs.config import replaced
from experiments.runs.provenance import settings_record, write_results

Result = tuple[dict[str, Any], list[str], Figure]  # numbers, sections of text, a picture


def run_sweep(modality: Modality, name: str, settings: Any, mesh: Any = None) -> Path:
    """Makes a sweep.

    Args:
      modality: what is unlearned.
      name: of the sweep.
      settings: those of a run, with the group `sweep`.
      mesh: of devices.

    Returns:
      The path of the text.

    Raises:
      ValueError: naming the argument.
    """
    check(modality, name, settings)
    record = settings_record(modality.program, settings)
    settings = replaced(settings, sweep=settings.sweep.reduced())
    sweep = {"baselines": _baselines, EQUAL: equal_forgetting, "timing": time_steps}.get(name, _axis)
    numbers, sections, figure = sweep(modality, name, settings, mesh)
    directory = settings.out / directory_name(modality, name, settings)
    return write_results(directory, name, record, numbers, sections=[*sections, f"![{name}]({name}.png)"], figure=figure)


def _axis(modality: Modality, name: str, settings: Any, mesh: Any) -> Result:
    """Along one setting."""
    points = run_axis(modality, name, settings, mesh)
    sections = [f"# {modality.axes[name].title}", _explained(modality, settings), axis_table(modality, name, points)]
    return {"points": [vars(point) for point in points]}, sections, axis_picture(modality, name, points)


def _baselines(modality: Modality, _: str, settings: Any, mesh: Any) -> Result:
    """All methods."""
    results = run_baselines(modality, settings, mesh)
    rows = summarise(results)
    sections = [
        f"# All methods, {modality.label(settings.problem)}",
        _explained(modality, settings),
        how_chosen(modality, settings),
        results_table(rows, modality.columns),
        "## Losses, and how close to the retrained model",
        results_table(rows, modality.details),
        "## Chosen settings",
        chosen_table(rows),
        caption(searched=results.searched),
    ]
    return {"methods": rows}, sections, fronts_picture(results, rows)


def _explained(modality: Modality, settings: Any) -> str:
    """What the numbers are."""
    sweep = settings.sweep
    return modality.explained.format(trained=max(1, len(sweep.training_seeds)), seeds=len(sweep.seeds))
