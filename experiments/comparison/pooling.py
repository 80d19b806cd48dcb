"""One table of several trained models, each of which was swept on its own, perhaps on another machine.

Takes files that `sweep baselines` wrote, each of one trained model and with the same settings, and writes mean and deviation
over the trained models: which differences another training would undo.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.comparison.config import Pool
from experiments.comparison.summary import COLUMNS, DETAILS, MODELS, mean_and_deviation
from experiments.comparison.tables import results_table
from experiments.data.text_files import read_json
from experiments.runs.provenance import settings_record, write_results

# Settings that may differ between the files: how the sweep chose its settings, and where it ran.
LOCATION = ("command", "out", "data_dir", "download", "devices", "mesh", "distributed", "seed", "seeds", "training_seeds")
SEARCH = ("grid_seeds", "chosen", "learning_rates", "improvements", "weights", "extensions", "methods")
EXPLAINED = (
    "Mean ± standard deviation over {count} trained models (a full model and one that never saw the forget set), unlearned by "
    "every method with the same setting, which was chosen on the first one's validation data. A model's number is the mean of "
    "its unlearning runs, of which there are {runs}: the spread is that of another training and of another order of examples "
    "together. The columns are those of the single tables."
)


def pool_models(settings: Pool) -> Path:
    """Pools them; returns the path of the text.

    Raises:
      ValueError: naming the file, for fewer than two, for one that `sweep baselines` did not write, or of several trained
        models, or for files that do not belong together.
    """
    sweeps = [_read(path) for path in settings.files]
    _check(settings.files, sweeps)
    models = [sweep["methods"] for sweep in sweeps]
    rows = pooled_rows(models)
    runs = " and ".join(str(len(sweep["settings"]["seeds"])) for sweep in sweeps)
    sources = [
        f"- {path.as_posix()}, of {sweep['environment']['date']}: `{sweep['settings']['command']}`"
        for path, sweep in zip(settings.files, sweeps, strict=True)
    ]
    sections = [
        f"# All methods, rho {sweeps[0]['settings']['rho']:g}, over {len(sweeps)} trained models",
        EXPLAINED.format(count=len(sweeps), runs=runs),
        results_table(rows, {name: column for name, column in COLUMNS.items() if column != "hypervolume"}),
        "## Losses, and how close to the retrained model",
        results_table(rows, DETAILS),
        "![gap](pool.png)",
        "## The pooled files",
        "\n".join(sources),
    ]
    numbers = {"pooled": sweeps[0]["settings"], "methods": rows}
    record = settings_record("comparison.pool_models", settings)
    return write_results(settings.out, "pool", record, numbers, sections=sections, figure=gaps_picture(models, rows))


def pooled_rows(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over models of the means of each."""
    first = models[0]
    return {
        name: {
            **({"setting": first[name]["setting"]} if "setting" in first[name] else {}),
            "numbers": {column: _over(models, name, column) for column in first[name]["numbers"] if column != "hypervolume"},
        }
        for name in first
    }


def gaps_picture(models: Sequence[Mapping[str, Any]], rows: Mapping[str, Any]) -> Figure:
    """The gap of every method, smallest above: a dot per trained model, a bar for their mean; dashed the full model."""
    names = sorted((name for name in rows if name not in MODELS), key=lambda name: rows[name]["numbers"]["gap"][0])
    figure = Figure(figsize=(7, 0.28 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [rows[name]["numbers"]["gap"][0] for name in names], color="#c6dbef")
    for number, model in enumerate(models):
        gaps = [model[name]["numbers"]["gap"][0] for name in names]
        axes.plot(gaps, names, "osD^v"[number % 5], markersize=4, label=f"model {number + 1}")
    axes.axvline(rows["full"]["numbers"]["gap"][0], color="k", linestyle="--", linewidth=1, label="nothing done")
    axes.invert_yaxis()
    axes.set_xlabel("gap to the retrained model's accuracies (left is better)")
    axes.legend(fontsize=8)
    return figure


def _over(models: Sequence[Mapping[str, Any]], name: str, column: str) -> tuple[float, float | None] | None:
    """A number of all models."""
    values = [model[name]["numbers"][column] for model in models]
    return mean_and_deviation([None if value is None else value[0] for value in values])


def _read(path: Path) -> dict[str, Any]:
    """The content of a sweep's file.

    Raises:
      ValueError: for a file that `sweep baselines` did not write.
    """
    if not path.exists():
        raise ValueError(f"files: got {path}, which is not there")
    sweep = read_json(path)
    if not {"settings", "environment", "methods"} <= set(sweep) or not {"training", "rho"} <= set(sweep["settings"]):
        raise ValueError(f"files: got {path}, expected what experiments.vision sweep baselines left")
    return sweep


def _check(files: Sequence[Path], sweeps: Sequence[Mapping[str, Any]]) -> None:
    """Checks that they are of one problem, with the same settings, and of different trained models."""
    if len(files) < 2:  # noqa: PLR2004
        raise ValueError(f"files: got {len(files)}, expected two or more")
    seen: dict[int, Path] = {}
    expected = _deciding(sweeps[0])
    for path, sweep in zip(files, sweeps, strict=True):
        trained = sweep["settings"]["training_seeds"] or [sweep["settings"]["training"]["seed"]]
        if len(trained) != 1:
            raise ValueError(f"files: got {path} with {len(trained)} trained models, expected one")
        if trained[0] in seen:
            raise ValueError(f"files: got {path} of training seed {trained[0]}, which {seen[trained[0]]} has already")
        seen[trained[0]] = path
        for name, value in _deciding(sweep).items():
            if expected.get(name) != value:
                raise ValueError(f"{name}: got {value!r} in {path}, expected {expected.get(name)!r} as in {files[0]}")


def _deciding(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same."""
    settings = {name: value for name, value in sweep["settings"].items() if name not in (*LOCATION, *SEARCH)}
    settings["training"] = {name: value for name, value in settings["training"].items() if name != "seed"}
    return {**settings, **{f"setting of {name}": row.get("setting") for name, row in sweep["methods"].items()}}
