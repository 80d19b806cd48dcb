"""What the library costs: named measurements, each with its target.

With a clone of the paper's repository (and `pip install 'hamu_jax[torch]'`) its PyTorch code runs beside ours: the same model,
weights, batches and number of threads, in a process of its own. Writes benchmark.json, benchmark.md and benchmark.png.

Times depend on the machine and on its load: the load average before and after stands beside them, and every comparison
is of times taken in turn. Where other work shares the CPU, set OPENBLAS_NUM_THREADS=1: threads of the Cholesky factorisation
that wait for each other once made it 40 times slower.
`experiments.cost.measurements` holds the table.
"""

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from experiments.cost.config import Benchmark
from experiments.cost.measurements import MEASUREMENTS
from experiments.cost.pytorch_process import Reference
from experiments.cost.rows import SMOKE, Row, Scale
from experiments.runs.provenance import settings_record, write_results
from hamu_jax import report

NOTE = (
    "Times are medians with quartiles, ratios those of times taken one right after the other, ours over the other. `steps "
    "apart` and `losses apart` are the relative differences between both sides' steps and losses: they compute the same."
)
PICTURE = "![Every ratio over its target](benchmark.png)"


def run_benchmark(settings: Benchmark) -> Path:
    """Runs it; returns the path of the text.

    Raises:
      ValueError: for the name of a measurement that does not exist.
    """
    if unknown := [name for name in settings.only if name not in MEASUREMENTS]:
        raise ValueError(f"only: got {', '.join(unknown)}, expected some of {', '.join(MEASUREMENTS)}")
    scale = SMOKE if settings.smoke else Scale()
    scale = dataclasses.replace(scale, repeats=settings.repeats or scale.repeats)
    load_before = os.getloadavg()
    measured, pytorch = _measured(settings, scale)
    load = {"load_average_before": load_before, "load_average_after": os.getloadavg(), "cores": os.cpu_count()}
    load["blas_threads"] = os.environ.get("OPENBLAS_NUM_THREADS", "not set")
    sections = ["# Benchmark"]
    if settings.reference is None:
        sections.append("Without a clone of the paper's repository (`--reference`): nothing of PyTorch was measured.")
    for name, block in measured.items():
        sections += [f"## {name}", f"{block['title']}.", _table(block["rows"])]
    return write_results(
        settings.out,
        "benchmark",
        {**settings_record("cost", settings), **dataclasses.asdict(scale)},
        {"lines": measured},
        sections=[*sections, NOTE, PICTURE],
        figure=_picture(measured),
        environment={**pytorch, **load},
    )


def _measured(settings: Benchmark, scale: Scale) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The title and the rows of every measurement; and the versions of the PyTorch that was measured."""
    with contextlib.nullcontext() if settings.reference is None else Reference(settings.reference) as reference:
        measured = {}
        for name in settings.only or MEASUREMENTS:
            sys.stderr.write(f"measuring {name}\n")
            measured[name] = {"title": MEASUREMENTS[name].title, "rows": MEASUREMENTS[name].measure(scale, reference)}
        return measured, {} if reference is None else reference.ask("environment")


def _picture(measured: dict[str, dict[str, Any]]) -> Figure:
    """Every ratio that has a number for a target, over that target."""
    rows = [(name, row) for name, block in measured.items() for row in block["rows"] if isinstance(row.get("target"), float)]
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
    return report.table(header, [[row.get(name, "") for name in header] for row in cells])


def _cells(row: Row) -> dict[str, str]:
    """The cells of a row: the text per column."""
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
