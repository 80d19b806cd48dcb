"""Reports of unlearning runs: pictures, a table, and a paragraph for those who were not there."""

import datetime
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hamu_jax._base.history import History, json_row, write_whole
from hamu_jax._driver.unlearn import Unlearned
from hamu_jax._transform.trade_off import TradeOff
from hamu_jax.report import _plots
from hamu_jax.report._assessment_plots import plot_assessment
from hamu_jax.report._plots import plot_evaluations, plot_hardness, plot_promises, plot_trade_off, save_figure

__all__ = [
    "conclude",
    "environment",
    "plot_assessment",
    "plot_evaluations",
    "plot_hardness",
    "plot_promises",
    "plot_trade_off",
    "save_figure",
    "write",
    "write_whole",
]

Models = Mapping[str, Mapping[str, float]]


def environment() -> dict[str, str]:
    """Versions, device and date: what must stand beside a measured number."""
    packages = {name: metadata.version(name) for name in ("hamu_jax", "jax", "jaxlib", "optax", "numpy")}
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **packages,
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
    }


def write(
    directory: Path,
    result: Unlearned,
    *,
    title: str,
    models: Models,
    conclusion: str,
    settings: Mapping[str, Any],
    watched: Mapping[str, str],
    reference: Mapping[str, float] | None = None,
    curve: TradeOff | None = None,
    learning_rate: float = 1.0,
) -> Path:
    """Writes `report.md`, `report.json`, `history.jsonl` and the pictures.

    Args:
      directory: made if need be.
      result: of `hamu_jax.unlearn`.
      title: the first line.
      models: named models, the unlearned one among them, each with what `hamu_jax.evaluate` returned for it.
      conclusion: the last paragraph, from `conclude` for example.
      settings: what was run: command, seed, options.
      watched: the evaluated columns to plot over steps, by the label to give them.
      reference: levels to draw beside them, by the same labels: those of the retrained model.
      curve: the trade-off at the start.
      learning_rate: with which the curve's changes are multiplied.

    Returns:
      The path of `report.md`.

    Raises:
      ImportError: naming the extra, if matplotlib is missing.
    """
    measured = {name for row in result.history.rows for name, value in row.items() if value is not None}
    figures = {"accuracy": plot_evaluations(result.history, watched, reference or {})}
    if "kappa" in measured:  # not where the run ended before its first step
        figures["hardness"] = plot_hardness(result.history)
    if "forget_measured" in measured:
        figures["promises"] = plot_promises(result.history)
    if curve is not None:
        figures["trade_off"] = plot_trade_off(curve, learning_rate)
    for name, figure in figures.items():
        save_figure(figure, directory / f"{name}.png")
    record = {"settings": dict(settings), "environment": environment(), "models": {k: json_row(v) for k, v in models.items()}}
    record |= {"steps": result.steps, "status": result.status, "reason": result.reason, "conclusion": conclusion}
    write_whole(directory / "report.json", json.dumps(record, indent=2) + "\n")
    result.history.write(directory / "history.jsonl")
    captions = {name: _plots.CAPTIONS[name] for name in figures}
    write_whole(directory / "report.md", _markdown(title, record, captions))
    return directory / "report.md"


def conclude(
    result: Unlearned,
    models: Models,
    *,
    retain: str,
    forget: str,
    unlearned: str,
    original: str,
    retrained: str | None = None,
    along: str | None = None,
) -> str:
    """A paragraph that a manager can read: was it forgotten, what did it cost, where to stop.

    Args:
      result: of `hamu_jax.unlearn`.
      models: as in `write`; numbers are fractions (accuracies).
      retain: the column that says how good a model is at what it should keep.
      forget: the column that says how good it is at what it should forget.
      unlearned: the name of the unlearned model in `models`.
      original: the name of the model before.
      retrained: the name of the model that never saw the forget set, if there is one.
      along: the column of the history in which forgetting was watched: the paragraph names the step at which it fell to
        the retrained model's level.

    Returns:
      The paragraph.
    """
    percent = {name: {column: f"{100 * values[column]:.1f}%" for column in (retain, forget)} for name, values in models.items()}
    goal = models[retrained][forget] if retrained else 0.0
    forgotten = models[unlearned][forget] <= goal + 0.02
    compare = f", a model trained without it on {percent[retrained][forget]}" if retrained else ""
    cost = round(100 * (models[original][retain] - models[unlearned][retain]), 1)
    keeps = f"; the model trained without it has {percent[retrained][retain]}" if retrained else ""
    verdict = "It was forgotten" if forgotten else "It was NOT forgotten"
    price = f"a loss of {cost:.1f} points" if cost > 0 else f"a gain of {-cost:.1f} points" if cost < 0 else "no change"
    return (
        f"**{verdict}.** On new examples of what was to be forgotten, the model is now right on {percent[unlearned][forget]}, "
        f"where it was right on {percent[original][forget]} before{compare}. **The price:** on everything else it is right on "
        f"{percent[unlearned][retain]} of new examples, {percent[original][retain]} before: {price}{keeps}. "
        f"**Where to stop:** {_where_to_stop(result, along, goal)} "
        "This is evidence about these measurements, not a certificate that no trace is left."
    )


def _where_to_stop(result: Unlearned, along: str | None, goal: float) -> str:
    """When forgetting was reached, and from when on the retain loss had to rise."""
    words = [f"the run ended after {result.steps} steps ({result.reason})."]
    history = result.history
    if along is not None:
        steps, values = history.measured(along)
        there = np.flatnonzero(values <= goal + 0.02)
        if there.size:
            words.append(f"The forget level was reached by step {steps[there[0]]}: further steps only deepen it.")
    rising = _rising(history)
    if rising is None:
        words.append("At no step was a rise of the retain loss unavoidable.")
    else:
        words.append(f"From step {rising} on a rise of the retain loss was unavoidable at times: consider stopping there.")
    return " ".join(words)


def _rising(history: History) -> int | None:
    """The first step at which the objective that is not guaranteed had to get worse."""
    return next((row["step"] for row in history.rows if row.get("unavoidable")), None)


def _markdown(title: str, record: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    """The report's text."""
    columns = list(next(iter(record["models"].values())))
    lines = [f"# {title}", "", "| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in record["models"].items():
        lines.append(f"| {name} | " + " | ".join("n/a" if values[c] is None else f"{values[c]:.3f}" for c in columns) + " |")
    lines.append("")
    for name, caption in captions.items():
        lines += [f"![{caption}]({name}.png)", "", caption, ""]
    lines += ["## How it was made", ""]
    lines += [f"- {key}: `{value}`" for key, value in {**record["settings"], **record["environment"]}.items()]
    lines += ["", "## Conclusion", "", record["conclusion"], ""]
    return "\n".join(lines)
