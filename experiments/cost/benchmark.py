"""What the library costs: named measurements, each with what it should be.

    python -m experiments.benchmark [--reference CLONE] [--out DIR] [--only NAME ...] [--smoke]

With a clone of the paper's repository (and `pip install 'hamu_jax[torch]'`) its PyTorch code runs beside ours: the same model,
weights, batches and number of threads, in a process of its own. Writes benchmark.json, benchmark.md and benchmark.png.

Times depend on the machine and on what else it does: the load average before and after stands beside them, and every comparison
is of times taken in turn. Where other work shares the CPU, set OPENBLAS_NUM_THREADS=1: threads of the Cholesky factorisation
that wait for each other once made it 40 times slower.
`experiments.benchmarks.lines` holds the table.
"""

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from experiments.cost.measurements import LINES
from experiments.cost.pytorch_process import Reference
from experiments.cost.rows import Row, SMOKE, Scale
from experiments.runs.provenance import settings
from hamu_jax import report

NOTE = (
    "Times are medians with quartiles, ratios those of times taken one right after the other, ours over the other. `steps "
    "apart` and `losses apart` are the relative differences between both sides' steps and losses: they compute the same."
)
PICTURE = "![Every ratio over its target](benchmark.png)"


@dataclasses.dataclass(frozen=True)
class Config:
    """The benchmark's settings.

    Attributes:
      out: where the results go.
      reference: a clone of the paper's repository. Default: nothing is measured of it.
      only: the names of the lines to measure; none means all.
      smoke: small sizes, to see that it runs; the numbers mean nothing.
      repeats: of every timing; 0 takes the scale's.
    """

    out: Path = Path("benchmark-out")
    reference: Path | None = None
    only: tuple[str, ...] = ()
    smoke: bool = False
    repeats: int = 0


def main(config: Config) -> Path:
    """Runs it; returns the path of the text.

    Raises:
      ValueError: for the name of a line that does not exist.
    """
    if unknown := [name for name in config.only if name not in LINES]:
        raise ValueError(f"only: got {', '.join(unknown)}, expected some of {', '.join(LINES)}")
    scale = SMOKE if config.smoke else Scale()
    scale = dataclasses.replace(scale, repeats=config.repeats or scale.repeats)
    before = os.getloadavg()
    found, theirs = _measured(config, scale)
    load = {"load_average_before": before, "load_average_after": os.getloadavg(), "cores": os.cpu_count()}
    load["blas_threads"] = os.environ.get("OPENBLAS_NUM_THREADS", "not set")
    environment = {**report.environment(), **theirs, **load}
    record = {"settings": {**settings("benchmark", config), **dataclasses.asdict(scale)}, "environment": environment}
    report.write_whole(config.out / "benchmark.json", json.dumps({**record, "lines": found}, indent=1) + "\n")
    report.save_figure(_picture(found), config.out / "benchmark.png")
    report.write_whole(config.out / "benchmark.md", _markdown(found, {**record["settings"], **environment}))
    return config.out / "benchmark.md"


def _measured(config: Config, scale: Scale) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Every line's title and rows; and what is to be known of the PyTorch that was measured."""
    with contextlib.nullcontext() if config.reference is None else Reference(config.reference) as reference:
        found = {}
        for name in config.only or LINES:
            sys.stderr.write(f"measuring {name}\n")
            found[name] = {"title": LINES[name].title, "rows": LINES[name].measure(scale, reference)}
        return found, {} if reference is None else reference.ask("environment")


def _markdown(found: dict[str, dict[str, Any]], made: dict[str, Any]) -> str:
    """The results' text."""
    parts = ["# Benchmark"]
    if made["reference"] is None:
        parts.append("Without a clone of the paper's repository (`--reference`): nothing of PyTorch was measured.")
    for name, line in found.items():
        parts += [f"## {name}", f"{line['title']}.", _table(line["rows"])]
    lines = [f"- {key}: `{value}`" for key, value in made.items()]
    return "\n\n".join([*parts, NOTE, PICTURE, "## How it was made", "\n".join(lines)]) + "\n"


def _picture(found: dict[str, dict[str, Any]]) -> Figure:
    """Every ratio that has a number for a target, over that target."""
    rows = [(name, row) for name, line in found.items() for row in line["rows"] if isinstance(row.get("target"), float)]
    labels = [f"{name}: {row['case']}\nagainst {row.get('against', 'a microbatch')}" for name, row in rows]
    figure = Figure(figsize=(9, 1.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ratios = [row["ratio"] / row["target"] for _, row in rows]
    bars = axes.barh(range(len(rows)), ratios, color=["tab:blue" if row["met"] else "tab:red" for _, row in rows])
    axes.set_yticks(range(len(rows)), labels)
    axes.axvline(1.0, color="black", linestyle="--")
    words = [f"{row['ratio']:.3g} (target {row['target']:g})" for _, row in rows]
    axes.bar_label(bars, words, padding=4, fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("ratio over its target: left of the line is met")
    return figure


def _table(rows: list[Row]) -> str:
    """Rows as Markdown, times with their quartiles in one cell."""
    cells = [_cells(row) for row in rows]
    header = list(dict.fromkeys(name for row in cells for name in row))
    lines = [header, ["---"] * len(header), *([row.get(name, "") for name in header] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> dict[str, str]:
    """The columns that people read."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        if key.endswith("median_ms"):
            stem = key.removesuffix("median_ms")
            low, high = row[f"{stem}low_ms"], row[f"{stem}high_ms"]
            cells[f"{stem.rstrip('_') or 'time'} (ms)"] = f"{value:.3g} ({low:.3g} to {high:.3g})"
        elif key == "ratio" and "ratio_low" in row:
            cells[key] = f"{value:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        elif not key.endswith(("_ms", "ratio_low", "ratio_high")):
            cells[key.replace("_", " ")] = f"{value:.3g}" if isinstance(value, float) else str(value)
    return cells


if __name__ == "__main__":
    written = main(tyro.cli(Config))
    sys.stdout.write(written.read_text(encoding="utf-8"))
    sys.stdout.write(f"\nThe results are in {written.parent}/\n")
