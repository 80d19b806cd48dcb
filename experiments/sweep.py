"""The paper's sweeps on images, and all baselines.

    python -m experiments.sweep NAME [options of experiments.vision unlearn] [--seeds 0 1] [--smoke]

NAME is rho, constraint, batch-size, full-gradient, optimizer, stopping, unavoidable, baselines or timing. Runs and models that
are there are not made again; a sweep that was killed goes on. One table and one figure are written to a directory in OUT.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure

from experiments import compare, compare_table, compare_timing
from experiments.programs import kept_programs
from experiments.record import settings
from experiments.sweeps import axis, baselines
from experiments.sweeps.config import AXES, NAMES, Sweep, check, chosen_methods, directory, run_settings
from experiments.vision import runs
from hamu_jax import report

EXPLAINED = (
    "Mean ± standard deviation over runs: {trained} trained model(s), and {seeds} unlearning run(s) on each. With one trained "
    "model the spread is that of unlearning alone, which is only a part of what another training would change. Retain and "
    "forget accuracy are of training images; test accuracy is of test images whose classes are in the proportions of the "
    "retain set, test forget accuracy in those of the forget set. The membership AUC is the probability that such a test image "
    "has a larger loss than a forgotten one: compare it with the retrained model's. The gap is the mean distance to the "
    "retrained model's four accuracies."
)


def main(name: str, config: Sweep) -> Path:
    """Runs it; returns the path of the text."""
    check(name, config)
    with kept_programs(config.out / "programs"):
        record, text, figure = _run(name, config)
    place = config.out / directory(name, config)
    made = {"settings": settings("sweep", config), "environment": report.environment()}
    report.write_whole(place / f"{name}.json", json.dumps({**made, **record}, indent=1) + "\n")
    report.save_figure(figure, place / f"{name}.png")
    lines = "\n".join(f"- {key}: `{value}`" for key, value in {**made["settings"], **made["environment"]}.items())
    parts = [text, f"![{name}]({name}.png)", "## How it was made", lines + "\n"]
    report.write_whole(place / f"{name}.md", "\n\n".join(parts))
    return place / f"{name}.md"


def _run(name: str, config: Sweep) -> tuple[dict[str, Any], str, Figure]:
    """Numbers, words and a picture."""
    explained = EXPLAINED.format(trained=max(1, len(config.training_seeds)), seeds=len(config.seeds))
    if name == "timing":
        return _timing(config)
    if name == "baselines":
        results = baselines.run(config)
        rows = compare_table.summarise(results)
        parts = [f"# All methods, rho {config.rho:g}", explained, baselines.chosen_by(config)]
        text = "\n\n".join([*parts, baselines.markdown(rows), compare.CAPTION])
        return {"methods": rows}, text, compare_table.picture(results, rows)
    points = axis.run(name, config)
    record = {"points": [{"method": p.method, "value": p.value, "numbers": p.numbers, "models": p.models} for p in points]}
    text = "\n\n".join([f"# {AXES[name].title}", explained, axis.markdown(name, points)])
    return record, text, axis.picture(name, points)


def _timing(config: Sweep) -> tuple[dict[str, Any], str, Figure]:
    """A step's time for each method."""
    one = run_settings(config)
    axis.with_models(one)
    case = runs.case(runs.problem(one), one.groups)
    built = {name: runs.build(run_settings(config, method=name), case.subject) for name in chosen_methods("timing", config)}
    few = {"rounds": 1, "steps": 2, "warm_up": 1} if config.smoke else {"rounds": 3, "steps": 5, "warm_up": 2}
    found = compare_timing.measure(case, built, config.batch_size, **few)
    times = found["milliseconds"]
    lines = ["| method | ms a step |", "|---|---|", *(f"| {name} | {value:.1f} |" for name, value in times.items())]
    words = (
        f"Milliseconds a step, median of {few['rounds'] * few['steps']}, each waited for; batches of {config.batch_size}; load "
        f"average before: {found['load average before']:.2f}. FT and GA compute both gradients, of which they use one."
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(times), list(times.values()))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a step")
    return found, "\n\n".join(["# The time of a step", words, "\n".join(lines)]), figure


def run(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=", ".join(NAMES))],
    config: Annotated[Sweep, tyro.conf.arg(name="")],
) -> None:
    """Runs a sweep of the paper's experiments on images."""
    written = main(name, config)
    sys.stdout.write(written.read_text(encoding="utf-8") + f"\nThe results are in {written.parent}/\n")


if __name__ == "__main__":
    tyro.cli(run, prog="python -m experiments.sweep")
