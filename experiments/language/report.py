"""The report of a run: numbers, pictures, how hard each question is to forget, what the model writes before and after."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hamu_jax
from experiments.runs import run_store
from experiments.data.questions import Question
from experiments.language import base, models, question_splits, runs, task
from experiments.language.config import Problem, Unlearning
from experiments.language.task import Task
from experiments.models import lora
from experiments.runs.provenance import settings
from experiments.runs.unlearning import Record
from hamu_jax import report

SHOWN = (
    *("retain/probability", "retain/rouge", "forget/probability", "forget/rouge", "forget/extraction", "forget/truth ratio"),
    *("validation forget/probability", "duplicates/probability", "forget unseen AUC, loss", "forget unseen AUC, min-k"),
    *("model utility", "forget quality"),
)
WATCHED = {
    "tokens of held-out questions, to keep": "validation retain/accuracy",
    "tokens of held-out questions, to forget": "validation forget/accuracy",
}
DIFFERENT = 0.05  # the p-value below which forget quality is said to show a difference, by convention
NOTE = (
    "To first order, at the full model and per unit of learning rate. The row is that of the question in its data; a cosine "
    "above 0 says that forgetting the question hurts what is kept. Keep texts that are not yours out of what you publish: "
    "`assessment.json` names questions by row alone."
)
LONGEST = 70  # characters of a question in a table


def write(config: Unlearning, mesh: Any = None) -> Path:
    """Writes `report.md`, `assessment.md` and `samples.md`, with pictures, beside the run; returns the first."""
    place = runs.directory(config) / "report"
    rows = runs.measured(config, mesh)
    result, record = runs.unlearn(config, mesh)
    made = task.build(run_store.part(config, Problem), mesh)
    assessment = assess(config, made, place)
    report.write_whole(place / "samples.md", samples(config, made))
    numbers = {name: {column: row[column] for column in SHOWN if column in row} for name, row in rows.items()}
    retrained = record["models"]["retrained"]
    return report.write(
        place,
        result,
        title=f"{models.data_name(config)}, {Path(base.name(config)).stem}: {config.method}",
        models=numbers,
        conclusion=conclude(rows, record),
        settings=settings("language", config),
        watched=WATCHED,
        reference={label: retrained[column] for label, column in WATCHED.items() if retrained[column] is not None},
        curve=assessment.trade_off,
        learning_rate=config.learning_rate,
    )


def assess(config: Unlearning, made: Task, place: Path) -> hamu_jax.Assessment:
    """Which questions are hardest to forget, and which retained ones would pay: with texts, in the user's own directory."""
    retained = question_splits.spread((*made.parts.retain, *made.parts.duplicates), config.assessed)
    assessment = hamu_jax.assess(
        made.loss,
        models.load(made, "full"),
        made.arrays(retained),
        made.arrays(made.parts.forget),
        config.improvement,
        variant="u" if config.method == "hamu-u" else "q",
        radius=config.radius,
        blocks="global" if config.blocks == "global" else lora.blocks,
        distribution=config.distribution or "relative",
        infeasible=config.infeasible or "scale",
        clip_norm=config.clip_norm,
        microbatch_size=config.microbatch_size,
    )
    for name, figure in report.plot_assessment(assessment).items():
        report.save_figure(figure, place / f"assessment_{name}.png")
    named = {"retain": [one.row for one in retained], "forget": [one.row for one in made.parts.forget]}
    record = {"rows": named, "assessment": json.loads(assessment.to_json())}
    report.write_whole(place / "assessment.json", json.dumps(record, indent=1) + "\n")
    report.write_whole(place / "assessment.md", _assessment(assessment, retained, made.parts.forget))
    return assessment


def samples(config: Unlearning, made: Task) -> str:
    """What the three models answer to some questions."""
    adapters = {
        "before": models.load(made, "full"),
        "after": models.kept(runs.directory(config)),
        "never trained on it": models.load(made, "retrained"),
    }
    lines = ["# What the model writes"]
    for title, part in (("To be forgotten", made.parts.forget), ("To be kept", made.parts.retain)):
        asked = question_splits.spread(tuple(one for one in part if one.question is not None), config.samples)
        if not asked:
            continue
        written = {name: made.answers(adapter, asked) for name, adapter in adapters.items()}
        lines.append(f"## {title}")
        for place, one in enumerate(asked):
            told = "\n".join(f"- {name}: {_line(answers[place])}" for name, answers in written.items())
            lines.append(f"**Row {one.row}: {_line(one.question or '')}**\n\n- the answer: {_line(one.answer)}\n{told}")
    return "\n\n".join(lines) + "\n"


def conclude(rows: dict[str, Record], record: Record) -> str:
    """A paragraph for those who were not there."""
    words: list[str] = []
    before, never, after = (rows[name] for name in ("full", "retrained", "unlearned"))

    def three(column: str) -> str:
        shown = ("n/a" if row.get(column) is None else f"{row[column]:.3f}" for row in (after, before, never))
        now, full, retrained = shown
        return f"{now} ({full} before, {retrained} in the model that was never trained on it)"

    words.append(f"**Forgotten:** the answers to be forgotten have probability {three('forget/probability')}.")
    words.append(
        "Answers to other questions about the same persons, which the model had learned and this run did not see, have "
        f"probability {three('validation forget/probability')}."
    )
    words.append(f"**Kept:** the answers to be kept have probability {three('retain/probability')}.")
    quality = after.get("forget quality")
    if quality is not None:
        words.append(f"**As if never trained on:** {_quality(before['forget quality'], quality)}.")
    words.append(f"The run ended after {record['steps']} steps: {record['reason']}.")
    words.append("This is evidence about these measurements, not a certificate that no trace is left.")
    return " ".join(words)


def _quality(before: float, after: float) -> str:
    """Forget quality, and what it says of the unlearned model, if it can say anything of these questions."""
    if after < DIFFERENT:
        said = "the truth ratios differ from the retrained model's"
    elif before >= DIFFERENT:
        said = "no difference from the retrained model was found, nor was one before: too few questions to tell"
    else:
        said = "no difference from the retrained model's truth ratios was found"
    return f"forget quality {after:.3g}, {before:.3g} before: {said}"


def _assessment(found: hamu_jax.Assessment, retained: Sequence[Question], forgotten: Sequence[Question]) -> str:
    """The assessment's text."""
    hardest = [(forgotten[i], found.cosines()[i], found.forget_change[i]) for i in found.hardest()]
    paying = [(retained[i], found.retain_change[i]) for i in found.most_threatened()]
    pictures = [f"![{name}](assessment_{name}.png)" for name in ("trade_off", "blocks", "examples", "collateral")]
    columns = ("hardest to forget (row)", "cosine with retain gradient", "promised change", "question")
    return "\n\n".join(
        [
            "# Before forgetting",
            found.verdict,
            _table(columns, hardest),
            _table(("most threatened (row)", "change of its loss", "question"), paying),
            NOTE,
            *pictures,
        ]
    )


def _table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """A row a question: its number, numbers about it, its text."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for one, *numbers in rows:
        shown = " | ".join(f"{float(np.asarray(number)):.3g}" for number in numbers)
        lines.append(f"| {one.row} | {shown} | {_line(one.question or one.answer, LONGEST)} |")
    return "\n".join(lines)


def _line(text: str, longest: int = 400) -> str:
    """A text on one line, cut off, fit for a table."""
    flat = " ".join(text.split()).replace("|", "/")
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."
