"""The report of a run, written as files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamu_jax._base.environment import environment, provenance
from hamu_jax._base.history import json_row, write_whole
from hamu_jax._base.markdown import escape, paragraphs, table
from hamu_jax._driver.unlearn import Unlearned
from hamu_jax._transform.trade_off import TradeOff
from hamu_jax.report import _plots
from hamu_jax.report._conclusion import Models, tone
from hamu_jax.report._numbers import show
from hamu_jax.report._page import Section, page
from hamu_jax.report._plots import plot_evaluations, plot_hardness, plot_promises, plot_trade_off, save_figure


def write(
    directory: str | os.PathLike[str],
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
    """Writes `report.md` with its pictures, `report.html`, `report.json` and `history.jsonl`.

    The HTML file needs no other file: it can be sent to somebody. See `page`.

    Args:
      directory: where to write; made if need be.
      result: of `hamu_jax.unlearn`.
      title: the first line. It, all names and all settings stay text in the report, whatever they contain.
      models: named models, the unlearned one among them, each with what `hamu_jax.evaluate` returned for it: the same
        columns for all.
      conclusion: the last paragraphs, from `conclude` for example: text, in which `**bold**` is kept.
      settings: what was run: command, seed, options.
      watched: the evaluated columns to plot over steps, by the label to give them.
      reference: levels to draw beside them, by the same labels: those of the retrained model.
      curve: the trade-off at the start.
      learning_rate: with which the curve's changes are multiplied.

    Returns:
      The path of `report.md`.

    Raises:
      ValueError: for no models, or models with different columns; KeyError for watched columns that the history does not have.
      ImportError: naming the extra, if matplotlib is missing.
    """
    directory, made_in = Path(directory), environment()
    _check(models)
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
    record = json_row({"settings": settings, "environment": made_in, "models": models})
    record |= {"steps": result.steps, "status": result.status, "reason": result.reason, "conclusion": conclusion}
    write_whole(directory / "report.json", json.dumps(record, indent=2, allow_nan=False, default=str) + "\n")
    result.history.write(directory / "history.jsonl")
    captions = {name: _plots.CAPTIONS[name] for name in figures}
    write_whole(directory / "report.md", _markdown(title, record, captions))
    write_whole(directory / "report.html", _html(title, record, {captions[name]: figure for name, figure in figures.items()}))
    return directory / "report.md"


def _check(models: Models) -> None:
    """Checks that there are models, all with the same columns."""
    if not models:
        raise ValueError("models: got none, expected at least the unlearned one")
    first, *others = models
    for name in others:
        for one, other in ((first, name), (name, first)):
            missing = [column for column in models[one] if column not in models[other]]
            if missing:
                raise ValueError(f"models[{other!r}]: got no column {missing[0]!r}, expected those of models[{one!r}]")


def _markdown(title: str, record: Mapping[str, Any], captions: Mapping[str, str]) -> str:
    """The report's text."""
    header, rows = _models(record)
    blocks = [f"# {escape(title)}", table(header, [[show(cell) for cell in row] for row in rows])]
    for name, caption in captions.items():
        blocks += [f"![{caption}]({name}.png)", caption]
    blocks += [provenance(record["settings"], measured_in=record["environment"])]
    blocks += ["## Conclusion", paragraphs(record["conclusion"])]
    return "\n\n".join(blocks) + "\n"


def _html(title: str, record: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The same for a browser, the conclusion first."""
    sections = [
        Section("Models", table=_models(record)),
        Section("The run", figures=figures),
        Section("How it was made", entries={**record["settings"], **record["environment"]}),
    ]
    return page(title, record["conclusion"], sections, tone=tone(record["conclusion"]))


def _models(record: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The header and the rows of the table of models."""
    columns = list(next(iter(record["models"].values())))
    return ["model", *columns], [[name, *(values[column] for column in columns)] for name, values in record["models"].items()]
