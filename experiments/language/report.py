"""The report of a run: numbers, pictures, how hard each question is to forget, what the model writes before and after."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hamu_jax
from experiments.data.questions import Question
from experiments.language import base, models, question_splits, runs
from experiments.language.config import Unlearning
from experiments.language.task import Task, build_task
from experiments.models import lora
from experiments.runs.provenance import settings_record, write_json
from experiments.runs.unlearning import Record
from hamu_jax import report

SHOWN = (
    *("retain/probability", "retain/rouge", "forget/probability", "forget/rouge", "forget/extraction", "forget/truth ratio"),
    *("validation forget/probability", "duplicates/probability", "forget unseen AUC, loss", "forget unseen AUC, min-k"),
    *("model utility", "forget quality"),
)
WATCHED = {"retain": "validation retain/accuracy", "forget": "validation forget/accuracy"}
DIFFERENT = 0.05  # the p-value below which forget quality is said to show a difference, by convention
NOTE = (
    "To first order, at the full model and per unit of learning rate. The row is that of the question in its data; a cosine "
    "above 0 says that forgetting the question hurts what is kept. Keep texts that are not yours out of what you publish: "
    "`assessment.json` names questions by row alone."
)
LONGEST = 70  # characters of a question in a table


def write_report(settings: Unlearning, mesh: Any = None) -> Path:
    """Writes `report.md`, `assessment.md` and `samples.md`, with pictures, to the run's directory; returns the first."""
    directory = runs.directory(settings) / "report"
    rows = runs.all_measured(settings, mesh)
    result, record = runs.unlearn_questions(settings, mesh)
    task = build_task(settings, mesh)
    assessment = assess(settings, task, directory)
    report.write_whole(directory / "samples.md", samples(settings, task))
    numbers = {name: {column: row[column] for column in SHOWN if column in row} for name, row in rows.items()}
    retrained, watched = record["models"]["retrained"], _watched(task)
    problem, method = settings.problem, settings.method
    return report.write(
        directory,
        result,
        title=f"{models.data_name(problem)}, {Path(base.name(problem)).stem}: {method.method}",
        models=numbers,
        conclusion=conclude(rows, record),
        settings=settings_record("language", settings),
        watched=watched,
        reference={label: retrained[column] for label, column in watched.items() if retrained[column] is not None},
        curve=assessment.trade_off,
        learning_rate=method.learning_rate,
    )


def assess(settings: Unlearning, task: Task, directory: Path) -> hamu_jax.Assessment:
    """Which questions are hardest to forget, and which retained ones would pay: with texts, in the user's own directory."""
    method, forgotten = settings.method, task.parts.forget
    retained = question_splits.spread((*task.parts.retain, *task.parts.duplicates), settings.assessed)
    assessment = hamu_jax.assess(
        task.loss,
        models.load(task, "full"),
        task.arrays(retained),
        task.arrays(forgotten),
        method.improvement,
        variant="u" if method.method == "hamu-u" else "q",
        radius=method.radius,
        blocks="global" if method.blocks == "global" else lora.blocks,
        distribution=method.distribution or "relative",
        infeasible=method.infeasible or "scale",
        clip_norm=method.clip_norm,
        microbatch_size=method.microbatch_size,
    )
    for name, figure in report.plot_assessment(assessment).items():
        report.save_figure(figure, directory / f"assessment_{name}.png")
    rows = {"retain": [question.row for question in retained], "forget": [question.row for question in forgotten]}
    write_json(directory / "assessment.json", {"rows": rows, "assessment": json.loads(assessment.to_json())})
    report.write_whole(directory / "assessment.md", _assessment(assessment, retained, forgotten))
    return assessment


def samples(settings: Unlearning, task: Task) -> str:
    """The answers of the three models to some questions."""
    adapters = {
        "before": models.load(task, "full"),
        "after": models.load_adapter(runs.directory(settings)),
        "never trained on it": models.load(task, "retrained"),
    }
    sections = ["# What the model writes"]
    for title, split in (("To be forgotten", task.parts.forget), ("To be kept", task.parts.retain)):
        asked = question_splits.spread(tuple(x for x in split if x.question is not None), settings.samples)
        if not asked:
            continue
        written = {name: task.answers(adapter, asked) for name, adapter in adapters.items()}
        sections.append(f"## {title}")
        for number, question in enumerate(asked):
            answers = "\n".join(f"- {name}: {_line(texts[number])}" for name, texts in written.items())
            heading = f"**Row {question.row}: {_line(question.question or '')}**"
            sections.append(f"{heading}\n\n- the answer: {_line(question.answer)}\n{answers}")
    return "\n\n".join(sections) + "\n"


def _watched(task: Task) -> dict[str, str]:
    """The columns of the history that are shown, by what they are of."""
    held_out = {"retain": task.parts.validation_retain, "forget": task.parts.validation_forget}
    return {
        f"tokens of {'held-out questions' if held_out[name] else 'the set itself'}, to {name}": column
        for name, column in WATCHED.items()
    }


def conclude(rows: dict[str, Record], record: Record) -> str:
    """A paragraph that says what the numbers mean."""
    sentences: list[str] = []
    before, never, after = (rows[name] for name in ("full", "retrained", "unlearned"))

    def three(column: str) -> str:
        shown = ("n/a" if row.get(column) is None else f"{row[column]:.3f}" for row in (after, before, never))
        now, full, retrained = shown
        return f"{now} ({full} before, {retrained} in the model that was never trained on it)"

    sentences.append(f"**Forgotten:** the answers to be forgotten have probability {three('forget/probability')}.")
    if "validation forget/probability" in after:  # unless no questions are held out
        sentences.append(
            "Answers to other questions about the same persons, which the model had learned and this run did not see, have "
            f"probability {three('validation forget/probability')}."
        )
    sentences.append(f"**Kept:** the answers to be kept have probability {three('retain/probability')}.")
    quality = after.get("forget quality")
    if quality is not None:
        sentences.append(f"**As if never trained on:** {_quality(before['forget quality'], quality)}.")
    sentences.append(f"The run ended after {record['steps']} steps: {record['reason']}.")
    sentences.append("This is evidence about these measurements, not a certificate that no trace is left.")
    return " ".join(sentences)


def _quality(before: float, after: float) -> str:
    """Forget quality, and what it says about the unlearned model, if these questions allow a conclusion."""
    if after < DIFFERENT:
        meaning = "the truth ratios differ from the retrained model's"
    elif before >= DIFFERENT:
        meaning = "no difference from the retrained model was found, nor was one before: too few questions to tell"
    else:
        meaning = "no difference from the retrained model's truth ratios was found"
    return f"forget quality {after:.3g}, {before:.3g} before: {meaning}"


def _assessment(assessment: hamu_jax.Assessment, retained: Sequence[Question], forgotten: Sequence[Question]) -> str:
    """The assessment's text."""
    hardest = [(forgotten[i], assessment.cosines()[i], assessment.forget_change[i]) for i in assessment.hardest()]
    threatened = [(retained[i], assessment.retain_change[i]) for i in assessment.most_threatened()]
    pictures = [f"![{name}](assessment_{name}.png)" for name in ("trade_off", "blocks", "examples", "collateral")]
    header = ("hardest to forget (row)", "cosine with retain gradient", "promised change", "question")
    return "\n\n".join(
        [
            "# Before forgetting",
            assessment.verdict,
            _table(header, hardest),
            _table(("most threatened (row)", "change of its loss", "question"), threatened),
            NOTE,
            *pictures,
        ]
    )


def _table(header: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """A row per question: its number, numbers about it, its text."""

    def cells(question: Question, *numbers: Any) -> list[str]:
        text = _line(question.question or question.answer, LONGEST)
        return [str(question.row), *(f"{float(number):.3g}" for number in numbers), text]

    return report.table(header, [cells(*row) for row in rows])


def _line(text: str, longest: int = 400) -> str:
    """A text on one line, cut off where it is too long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."
