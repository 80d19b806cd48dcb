"""Runs a sweep, and writes its table and its figure."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.comparison import summary, timing
from experiments.runs import run_store
from experiments.runs.compile_cache import kept_programs
from experiments.runs.provenance import settings
from experiments.comparison import axis, baselines
from experiments.comparison.config import check, chosen_methods, directory, run_settings
from hamu_jax import report


def main(name: str, config: Any, command: str) -> Path:
    """Runs it.

    Args:
      name: of the sweep.
      config: its settings, a `Varied` with those of a run.
      command: as which it was called.

    Returns:
      The path of the text.

    Raises:
      ValueError: naming the argument.
    """
    check(name, config)
    with kept_programs(config.out / "programs"):
        record, text, figure = _run(name, config)
    place = config.out / directory(name, config)
    made = {"settings": settings(command, config), "environment": report.environment()}
    report.write_whole(place / f"{name}.json", json.dumps({**made, **record}, indent=1) + "\n")
    report.save_figure(figure, place / f"{name}.png")
    lines = "\n".join(f"- {key}: `{value}`" for key, value in {**made["settings"], **made["environment"]}.items())
    parts = [text, f"![{name}]({name}.png)", "## How it was made", lines + "\n"]
    report.write_whole(place / f"{name}.md", "\n\n".join(parts))
    return place / f"{name}.md"


def _run(name: str, config: Any) -> tuple[dict[str, Any], str, Figure]:
    """Numbers, words and a picture."""
    kind = config.kind
    explained = kind.explained.format(trained=max(1, len(config.training_seeds)), seeds=len(config.seeds))
    if name == "timing":
        return _timing(config)
    if name == "baselines":
        results = baselines.run(config)
        rows = summary.summarise(results)
        parts = [f"# All methods, {kind.label(run_settings(config))}", explained, baselines.chosen_by(config)]
        parts += [baselines.markdown(config, rows), summary.caption(searched=results.searched)]
        text = "\n\n".join(parts)
        return {"methods": rows}, text, summary.picture(results, rows)
    points = axis.run(name, config)
    record = {"points": [{"method": p.method, "value": p.value, "numbers": p.numbers, "models": p.models} for p in points]}
    text = "\n\n".join([f"# {kind.axes[name].title}", explained, axis.markdown(name, kind, points)])
    return record, text, axis.picture(name, kind, points)


def _timing(config: Any) -> tuple[dict[str, Any], str, Figure]:
    """A step's time for each method."""
    case = config.kind.case(run_settings(config))
    built = {
        name: run_store.build(run_settings(config, method=name), case.subject) for name in chosen_methods("timing", config)
    }
    few = {"rounds": 1, "steps": 2, "warm_up": 1} if config.smoke else {"rounds": 3, "steps": 5, "warm_up": 2}
    found = timing.measure(case, built, config.batch_size, **few)
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
