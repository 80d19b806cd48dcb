"""The page of a run towards a level, from plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float

from hamu_jax._base.history import History
from hamu_jax.report._environment import environment
from hamu_jax.report._outcome_plots import HEIGHT, WIDTH, plot_histograms, plot_path, plot_trust_region
from hamu_jax.report._page import Section, Tone, page
from hamu_jax.report._plots import CAPTIONS, plot_hardness

Table = tuple[Sequence[Any], Sequence[Sequence[Any]]]

_TRUST_REGION = ("learning_rate", "accepted", "trust_error")
_HARDNESS = ("kappa", "kappa_1", "kappa_2", "retain_norm", "forget_norm")


def outcome_page(
    title: str,
    verdict: str,
    *,
    history: History,
    table: Table,
    settings: Mapping[str, Any],
    tone: Tone = "neutral",
    level: float | None = None,
    tolerance: float = 0.1,
    before: Mapping[str, Float[Any, " n"]] | None = None,
    after: Mapping[str, Float[Any, " n"]] | None = None,
    threatened: Table | None = None,
    measured_in: Mapping[str, Any] | None = None,
) -> str:
    """The page of a run that brings the forget loss to a level: what a reader wants to know, in the order in which they ask.

    Verdict, numbers before and after, losses of single examples, the path, the trust region and the hardness of the steps, the
    retained examples that paid most, how it was made. A section without data is left out.

    Args:
      title: the title.
      verdict: as in `page`.
      history: of the run; see `plot_path`, `plot_trust_region` and `plot_hardness` for the columns that they read.
      table: the header and the rows of the numbers before and after.
      settings: what was run: command, seed, options.
      tone: as in `page`.
      level: as in `plot_path`.
      tolerance: as in `plot_path`.
      before: as in `plot_histograms`.
      after: as in `plot_histograms`.
      threatened: the header and the rows of the most threatened retained examples, the worst first.
      measured_in: what `environment` returned when the numbers were measured; by default what it returns now.

    Returns:
      The HTML text, for `write_whole`.

    Raises:
      ValueError: as `page`, `plot_path` and `plot_histograms`.
      ImportError: naming the extra, if matplotlib is missing.
    """
    sections = [Section("Before and after", table=table)]
    losses = {
        "Both losses over the steps; the band is the level. Thin: batches; with markers: whole sets.": plot_path(
            history, level, tolerance
        )
    }
    if before is not None and after is not None:
        caption = "Losses of single examples, before and after. Forgotten: the forget set lies where the unseen examples lie."
        losses = {caption: plot_histograms(before, after), **losses}
    sections.append(Section("Losses", figures=losses))
    steps: dict[str, Any] = {}
    if _measured(history, _TRUST_REGION):
        caption = (
            "Above, the learning rate of each step, and whether it was taken; below, by how much the step missed its promise."
        )
        steps[caption] = plot_trust_region(history)
    if _measured(history, _HARDNESS):
        steps[CAPTIONS["hardness"]] = _narrow(plot_hardness(history))
    if steps:
        sections.append(Section("Steps", figures=steps))
    if threatened is not None:
        sections.append(Section("Who paid most", "Retained examples whose loss rose most.", table=threatened))
    made = {**settings, **(environment() if measured_in is None else measured_in)}
    return page(title, verdict, [*sections, Section("How it was made", entries=made)], tone=tone)


def _measured(history: History, columns: Sequence[str]) -> bool:
    """Whether the history has every one of the columns, with a number in it."""
    return all(any(row.get(column) is not None for row in history.rows) for column in columns)


def _narrow(figure: Any) -> Any:
    """The picture of hardness as wide as the others, its legend above it."""
    figure.set_size_inches(WIDTH, HEIGHT)
    figure.axes[0].get_legend().remove()
    figure.legend(loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return figure
