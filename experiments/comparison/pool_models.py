"""One table of several trained models, each of which was swept by itself, perhaps on a machine of its own.

    python -m experiments.pool baselines.json other/baselines.json ... [--out DIR]

Takes files that `experiments.sweep baselines` left, each of one trained model and with the same settings, and writes mean and
deviation over the trained models: which differences another training would undo.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from experiments.comparison.summary import COLUMNS, DETAILS, MODELS, mean_and_deviation, table
from experiments.runs.provenance import settings
from hamu_jax import report

# Of a sweep: how its settings were found, which is of no consequence once they are the same, and where it was run.
OWN = ("command", "out", "data_dir", "download", "devices", "mesh", "distributed", "seed", "seeds", "training_seeds")
SEARCH = ("grid_seeds", "chosen", "learning_rates", "promise_learning_rates", "improvements", "methods")
EXPLAINED = (
    "Mean ± standard deviation over {count} trained models (a full model and one that never saw what is to be forgotten), "
    "unlearned by every method with the same setting, which was chosen on the first one's validation data. A model's number is "
    "the mean of its unlearning runs, of which there are {runs}: the spread is that of another training and of another order "
    "of examples together. The columns are those of the single tables."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Where from, and where to.

    Attributes:
      files: what `sweep baselines` left, a trained model each.
      out: the directory to write.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("pool-out")


def main(config: Config) -> Path:
    """Pools them; returns the path of the text.

    Raises:
      ValueError: naming the file, for fewer than two, for one that `sweep baselines` did not leave, or of several trained
        models, or for files that do not belong together.
    """
    held = [_read(path) for path in config.files]
    _check(config.files, held)
    rows = pool([one["methods"] for one in held])
    made = {"settings": settings("pool", config), "environment": report.environment(), "pooled": held[0]["settings"]}
    runs = " and ".join(str(len(one["settings"]["seeds"])) for one in held)
    sources = [
        f"- {path.as_posix()}, of {one['environment']['date']}: `{one['settings']['command']}`"
        for path, one in zip(config.files, held, strict=True)
    ]
    text = "\n\n".join(
        [
            f"# All methods, rho {held[0]['settings']['rho']:g}, over {len(held)} trained models",
            EXPLAINED.format(count=len(held), runs=runs),
            table(rows, {name: column for name, column in COLUMNS.items() if column != "hypervolume"}),
            "## Losses, and how close to the retrained model",
            table(rows, DETAILS),
            "![gap](pool.png)",
            "## How it was made",
            "\n".join([f"`{made['settings']['command']}`, of", *sources]) + "\n",
        ]
    )
    report.write_whole(config.out / "pool.json", json.dumps({**made, "methods": rows}, indent=1) + "\n")
    report.save_figure(picture([one["methods"] for one in held], rows), config.out / "pool.png")
    report.write_whole(config.out / "pool.md", text)
    return config.out / "pool.md"


def pool(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over models of the means of each."""
    first = models[0]
    return {
        name: {
            **({"setting": first[name]["setting"]} if "setting" in first[name] else {}),
            "numbers": {column: _over(models, name, column) for column in first[name]["numbers"] if column != "hypervolume"},
        }
        for name in first
    }


def picture(models: Sequence[Mapping[str, Any]], rows: Mapping[str, Any]) -> Figure:
    """The gap of every method, smallest above: a dot a trained model, a bar their mean; dashed the model as it was."""
    names = sorted((name for name in rows if name not in MODELS), key=lambda name: rows[name]["numbers"]["gap"][0])
    figure = Figure(figsize=(7, 0.28 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [rows[name]["numbers"]["gap"][0] for name in names], color="#c6dbef")
    for place, one in enumerate(models):
        gaps = [one[name]["numbers"]["gap"][0] for name in names]
        axes.plot(gaps, names, "osD^v"[place % 5], markersize=4, label=f"model {place + 1}")
    axes.axvline(rows["full"]["numbers"]["gap"][0], color="k", linestyle="--", linewidth=1, label="nothing done")
    axes.invert_yaxis()
    axes.set_xlabel("gap to the retrained model's accuracies (left is better)")
    axes.legend(fontsize=8)
    return figure


def _over(models: Sequence[Mapping[str, Any]], name: str, column: str) -> tuple[float, float | None] | None:
    """A number of all models."""
    values = [one[name]["numbers"][column] for one in models]
    return mean_and_deviation([None if value is None else value[0] for value in values])


def _read(path: Path) -> dict[str, Any]:
    """What a sweep left.

    Raises:
      ValueError: if it is not that.
    """
    if not path.exists():
        raise ValueError(f"files: got {path}, which is not there")
    held = json.loads(path.read_text(encoding="utf-8"))
    if not {"settings", "environment", "methods"} <= set(held) or not {"training", "rho"} <= set(held["settings"]):
        raise ValueError(f"files: got {path}, expected what experiments.sweep baselines left")
    return held


def _check(files: Sequence[Path], held: Sequence[Mapping[str, Any]]) -> None:
    """Checks that they are of one problem, with the same settings, and of different trained models."""
    if len(files) < 2:  # noqa: PLR2004
        raise ValueError(f"files: got {len(files)}, expected two or more")
    seen: dict[int, Path] = {}
    expected = _made(held[0])
    for path, one in zip(files, held, strict=True):
        trained = one["settings"]["training_seeds"] or [one["settings"]["training"]["seed"]]
        if len(trained) != 1:
            raise ValueError(f"files: got {path} with {len(trained)} trained models, expected one")
        if trained[0] in seen:
            raise ValueError(f"files: got {path} of training seed {trained[0]}, which {seen[trained[0]]} has already")
        seen[trained[0]] = path
        for name, value in _made(one).items():
            if expected.get(name) != value:
                raise ValueError(f"{name}: got {value!r} in {path}, expected {expected.get(name)!r} as in {files[0]}")


def _made(held: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same."""
    found = {name: value for name, value in held["settings"].items() if name not in (*OWN, *SEARCH)}
    found["training"] = {name: value for name, value in found["training"].items() if name != "seed"}
    return {**found, **{f"setting of {name}": row.get("setting") for name, row in held["methods"].items()}}


if __name__ == "__main__":
    written = main(tyro.cli(Config))
    sys.stdout.write(written.read_text(encoding="utf-8") + f"\nThe results are in {written.parent}/\n")
