"""Compare all unlearning methods on one task: the same data, batches, steps, clipping and evaluation.

    python -m experiments.compare --dataset digits [--out DIR] [--smoke] [--timing]

A small network learns digits and is to forget one of them. Every method runs with the same number of settings and with
several seeds; its setting is chosen on validation data and reported on test data. Finished runs are kept in DIR/runs, one
file each, and are not run again. `--timing` measures the time of a step, on a quiet machine, and adds it to the table.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from experiments.comparison import summary, timing
from experiments import methods
from experiments.comparison.grid import Config, SMOKE, run_all
from experiments.runs.compile_cache import kept_programs
from experiments.runs.provenance import settings
from hamu_jax import report

EXPLAINED = (
    "Mean ± standard deviation over seeds; a seed is that of the split, of the initial weights, of training and of unlearning. "
    'Accuracies without "test" are of training images. Test accuracy and test loss are of the classes that are kept. The '
    "membership AUC is the probability that a test image of the forgotten class has a larger loss than a training image of it: "
    "0.5 is indistinguishable, below 0.5 the training images stick out. The gap is the mean distance to the retrained model's "
    "accuracy on what is kept and what is forgotten, training and test. KL and agreement are with the retrained model. The "
    "hypervolume is the area that a method's settings and evaluations on the way dominate in the plane of both test accuracies "
    "(at most 1)."
)
CHOSEN = (
    "The setting of each method with the smallest mean gap on validation images over {seeds}; of equal gaps the one with the "
    "smallest mean divergence from the retrained model there. It needs the retrained model, which nobody has who unlearns in "
    "earnest: it compares methods at their best."
)


def main(config: Config) -> Path:
    """Runs it; returns the path of the text."""
    _check(config)
    if config.smoke:
        config = dataclasses.replace(config, **SMOKE)
    if config.timing:
        return timing.main(config)
    models, runs = {}, {}
    with kept_programs(config.out / "programs"):
        for seed, measured, finished in run_all(config):
            models[seed], runs[seed] = measured, finished
            Console(stderr=True).print(f"seed {seed}: {len(finished)} runs")
    results = summary.Results(config, models, runs)
    rows = summary.summarise(results)
    record = {"settings": settings("compare", config), "environment": report.environment(), "methods": rows}
    timing = timing.read(config)
    if timing is not None:
        record["timing"] = timing
    report.write_whole(config.out / "compare.json", json.dumps(record, indent=1) + "\n")
    report.save_figure(summary.picture(results, rows), config.out / "compare.png")
    report.write_whole(config.out / "compare.md", _markdown(record))
    return config.out / "compare.md"


def _check(config: Config) -> None:
    """Checks names.

    Raises:
      ValueError: naming the argument.
    """
    if config.dataset != "digits":
        raise ValueError(f"dataset: got {config.dataset!r}, expected 'digits'")
    for name in config.methods:
        if name not in methods.METHODS:
            raise ValueError(f"methods: got {name!r}, expected some of {', '.join(methods.METHODS)}")


def _markdown(record: dict[str, Any]) -> str:
    """The results' text."""
    rows, timing = record["methods"], record.get("timing")
    timed = [] if timing is None else [timing.explain(timing)]
    return "\n\n".join(
        [
            f"# Forgetting the digit {record['settings']['forget_class']}: all methods",
            summary.table(rows, summary.COLUMNS, None if timing is None else timing["milliseconds"]),
            EXPLAINED,
            *timed,
            f"![{summary.caption()}](compare.png)",
            summary.caption(),
            "## Losses, and how close to the retrained model",
            summary.table(rows, summary.DETAILS),
            "## Chosen settings",
            summary.chosen_table(rows),
            CHOSEN.format(seeds="all seeds"),
            "## How it was made",
            "\n".join(f"- {key}: `{value}`" for key, value in {**record["settings"], **record["environment"]}.items()) + "\n",
        ]
    )


if __name__ == "__main__":
    written = main(tyro.cli(Config))
    sys.stdout.write(written.read_text(encoding="utf-8"))
    sys.stdout.write(f"\nThe results are in {written.parent}/\n")
