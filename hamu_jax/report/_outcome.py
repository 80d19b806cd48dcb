"""The report of `forget`: did the forget set get to its level, what did it cost, and who paid."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hamu_jax import metrics
from hamu_jax._base.environment import environment, provenance
from hamu_jax._base.history import json_row, write_whole
from hamu_jax._base.markdown import escape, paragraphs, table
from hamu_jax._forget.outcome import ForgetStatus, Forgotten
from hamu_jax._gradients.losses import Loss
from hamu_jax.report._numbers import show
from hamu_jax.report._outcome_plots import HEIGHT, WIDTH, plot_histograms, plot_path, plot_trust_region
from hamu_jax.report._page import Section, Tone, page
from hamu_jax.report._plots import CAPTIONS, plot_hardness, save_figure

_TONES: dict[ForgetStatus, Tone] = {"reached": "good", "not_reached": "bad", "nonfinite": "bad"}
_TRUST_REGION = ("step_scale", "step_accepted", "trust_error")
_HARDNESS = ("kappa", "kappa_1", "kappa_2", "retain_norm", "forget_norm")
_CAPTIONS = {
    "losses": "Losses of single examples, before and after. Forgotten: the forget set lies where the unseen examples lie.",
    "path": "Both losses over the steps; the band is the level. Thin: batches; markers: whole sets; dotted: what was returned.",
    "trust_region": "Above, how long each step was, and whether it was taken; below, by how much it missed its promise.",
    "hardness": CAPTIONS["hardness"],
}
_MOST = 10  # retained examples that are named
_HEADER = ("number", "before", "after")
_THREATENED = ("row of the retain set", "loss before", "loss after", "rise")

Losses = dict[str, Float[np.ndarray, " examples"]]


def write_outcome(
    directory: str | os.PathLike[str],
    result: Forgotten,
    *,
    loss: Loss,
    params: Any,
    sets: Mapping[str, Any],
    title: str,
    settings: Mapping[str, Any],
    models: Mapping[str, Mapping[str, float]] | None = None,
    batch_size: int = 1024,
) -> Path:
    """Writes the report of `hamu_jax.forget`: `report.html`, `report.md` with its pictures, `report.json` and `history.jsonl`.

    The verdict comes first; then the losses before and after, the losses of single examples, the path to the level, the trust
    region and the hardness of the steps, the retained examples whose loss rose most, and how it was made.

    Args:
      directory: where to write; made if need be.
      result: of `hamu_jax.forget`.
      loss: as it was given to `forget`.
      params: the original parameters.
      sets: named data sets whose single examples are compared before and after: `forget`, `unseen` and `retain`, or what there
        is of them. Of `retain` the ten rows that paid most are listed.
      title: the title. It, all names and all settings stay text, whatever they contain.
      settings: what was run: command, seed, options.
      models: named models to compare, each with what `hamu_jax.evaluate` returned for it: the original, the unlearned, a
        retrained one.
      batch_size: examples evaluated at once.

    Returns:
      The path of `report.html`.

    Raises:
      ValueError: for sets that are empty or uneven.
      ImportError: naming the extra, if matplotlib is missing.
    """
    directory, made_in = Path(directory), environment()
    before, after = (
        {name: metrics.values(loss, p, data, batch_size=batch_size) for name, data in sets.items()}
        for p in (params, result.params)
    )
    figures = _figures(result, before, after)
    for name, figure in figures.items():
        save_figure(figure, directory / f"{name}.png")
    rows = _rows(result)
    threatened = _threatened(loss, sets["retain"], before["retain"], after["retain"]) if "retain" in sets else []
    record = json_row({"settings": settings, "environment": made_in, "status": result.status, "verdict": result.verdict})
    record |= json_row({name: getattr(result, name) for name in ("level_error", "worse_on", "auc_interval")})
    record |= json_row({"level": result.level, "width": result.width, "best_step": result.best_step, "steps": result.run.steps})
    compared = _compared(models or {})
    record |= json_row({"models": models or {}})
    record |= json_row({"before and after": {name: [was, now] for name, was, now in rows}, "most threatened": threatened})
    write_whole(directory / "report.json", json.dumps(record, indent=2, allow_nan=False, default=str) + "\n")
    result.history.write(directory / "history.jsonl")
    blocks = [f"# {escape(title)}", paragraphs(result.verdict), _markdown_table(_HEADER, rows)]
    blocks += ["## Beside other models", _markdown_table(*compared)] if models else []
    blocks += [f"![{_CAPTIONS[name]}]({name}.png)\n\n{_CAPTIONS[name]}" for name in figures]
    blocks += ["## Who paid most", _markdown_table(_THREATENED, threatened)] if threatened else []
    blocks.append(provenance(record["settings"], measured_in=made_in))
    write_whole(directory / "report.md", "\n\n".join(blocks) + "\n")
    drawn = {group: {_CAPTIONS[name]: figures[name] for name in names if name in figures} for group, names in _GROUPS.items()}
    sections = [
        Section("Before and after", table=(_HEADER, rows)),
        *([Section("Beside other models", table=compared)] if models else []),
        *(Section(group, figures=pictures) for group, pictures in drawn.items() if pictures),
        *(
            [Section("Who paid most", "Retained examples whose loss rose most.", (_THREATENED, threatened))]
            if threatened
            else []
        ),
        Section("How it was made", entries={**record["settings"], **made_in}),
    ]
    tone: Tone = _TONES.get(result.status, "neutral")
    write_whole(directory / "report.html", page(title, result.verdict, sections, tone=tone))
    return directory / "report.html"


def _compared(models: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, ...], list[list[Any]]]:
    """A table with a row per model and a column per number."""
    columns = list(next(iter(models.values()), {}))
    return ("model", *columns), [[name, *(numbers.get(column) for column in columns)] for name, numbers in models.items()]


_GROUPS = {"Losses": ("losses", "path"), "Steps": ("trust_region", "hardness")}


def _figures(result: Forgotten, before: Losses, after: Losses) -> dict[str, Any]:
    """The pictures for which there are numbers, by name."""
    measured = {name for row in result.history.rows for name, value in row.items() if value is not None}
    figures = {"losses": plot_histograms(before, after)} if before else {}
    figures["path"] = plot_path(result.history, result.level, result.width, returned=result.best_step)
    if measured.issuperset(_TRUST_REGION):
        figures["trust_region"] = plot_trust_region(result.history)
    if measured.issuperset(_HARDNESS):
        figures["hardness"] = _narrow(plot_hardness(result.history))
    return figures


def _rows(result: Forgotten) -> list[tuple[str, float, float]]:
    """The numbers before and after."""
    rows = [(f"mean loss, {name.replace('_', ' ')}", change.before, change.after) for name, change in result.losses.items()]
    if result.auc is not None:
        rows.append(("membership AUC, unseen against forget", result.auc.before, result.auc.after))
    return rows


def _threatened(
    loss: Loss, retain: Any, before: Float[np.ndarray, " examples"], after: Float[np.ndarray, " examples"]
) -> list[tuple[int, float, float, float]]:
    """The retained examples whose loss rose most, by their row in the data, the worst first; padding has no loss."""
    weights = getattr(loss, "weights", None)
    rows = np.arange(before.size) if weights is None else np.flatnonzero(np.asarray(weights(retain)))
    rise = after - before
    worst = [int(i) for i in np.argsort(-rise, kind="stable") if not rise[i] <= 0][:_MOST]
    return [(int(rows[i]), float(before[i]), float(after[i]), float(rise[i])) for i in worst]


def _markdown_table(header: tuple[str, ...], rows: Any) -> str:
    """A table of numbers as Markdown."""
    return table(header, [[show(cell) for cell in row] for row in rows])


def _narrow(figure: Any) -> Any:
    """The picture of hardness as wide as the others, its legend above it."""
    figure.set_size_inches(WIDTH, HEIGHT)
    figure.axes[0].get_legend().remove()
    figure.legend(loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return figure
