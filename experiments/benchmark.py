"""What the library costs: named measurements, each with what it should be.

    python -m experiments.benchmark [--out DIR] [--only NAME ...] [--smoke]

Writes benchmark.json and benchmark.md. Times depend on the machine and on what else it does: the load average before and
after stands beside them, and every comparison is of times taken in turn. Where other work shares the CPU, set
OPENBLAS_NUM_THREADS=1: threads of the Cholesky factorisation that wait for each other once made it 40 times slower.
`experiments.benchmarks.lines` holds the table.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import tyro

from experiments.benchmarks.lines import LINES, SMOKE, Row, Scale
from experiments.record import settings
from hamu_jax import report


@dataclasses.dataclass(frozen=True)
class Config:
    """The benchmark's settings.

    Attributes:
      out: where the results go.
      only: the names of the lines to measure; none means all.
      smoke: small sizes, to see that it runs; the numbers mean nothing.
      repeats: of every timing; 0 takes the scale's.
    """

    out: Path = Path("benchmark-out")
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
    found = {name: _measured(name, scale) for name in config.only or LINES}
    load = {"load_average_before": before, "load_average_after": os.getloadavg(), "cores": os.cpu_count()}
    load["blas_threads"] = os.environ.get("OPENBLAS_NUM_THREADS", "not set")
    environment = {**report.environment(), **load}
    record = {"settings": {**settings("benchmark", config), **dataclasses.asdict(scale)}, "environment": environment}
    report.write_whole(config.out / "benchmark.json", json.dumps({**record, "lines": found}, indent=1) + "\n")
    report.write_whole(config.out / "benchmark.md", _markdown(found, {**record["settings"], **environment}))
    return config.out / "benchmark.md"


def _measured(name: str, scale: Scale) -> dict[str, Any]:
    """One line's rows, each with whether it is on target."""
    sys.stderr.write(f"measuring {name}\n")
    line = LINES[name]
    rows = line.measure(scale)
    if line.target is not None:
        rows = [{**row, "met": row["ratio"] <= line.target} for row in rows]
    return {"title": line.title, "target": line.target, "rows": rows}


def _markdown(found: dict[str, dict[str, Any]], made: dict[str, Any]) -> str:
    """The results' text."""
    parts = ["# Benchmark"]
    for name, line in found.items():
        target = "" if line["target"] is None else f" The ratio should be at most {line['target']}."
        parts += [f"## {name}", f"{line['title']}.{target}", _table(line["rows"])]
    lines = [f"- {key}: `{value}`" for key, value in made.items()]
    note = "Times are medians with quartiles, ratios those of times taken one right after the other."
    return "\n\n".join([*parts, note, "## How it was made", "\n".join(lines)]) + "\n"


def _table(rows: list[Row]) -> str:
    """Rows as Markdown, times with their quartiles in one cell."""
    cells = [_cells(row) for row in rows]
    header = list(cells[0])
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
