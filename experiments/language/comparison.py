"""Sweeps of the experiments on language models."""

import dataclasses
from typing import ClassVar

from experiments.runs import run_store
from experiments.comparison.summary import Judge, gap
from experiments.language import models, runs, task
from experiments.language.config import Problem, Unlearning
from experiments.language.measures import VALIDATION
from experiments.comparison.config import AXES, Axis, Kind, Varied
from experiments.runs.unlearning import Case, Record

HARD = {"hard": "semantic"}
EXPLAINED = (
    "Mean ± standard deviation over runs: {trained} fine-tuned model(s), and {seeds} unlearning run(s) on each. With one model "
    "the spread is that of unlearning alone. Retain and forget are the questions that a run retains and forgets; held-out are "
    "others about the same persons, which the full model learned too. Probability is that of an answer's token (geometric "
    "mean); forget quality is the p-value of a test that the truth ratios on the forget set are those of the retrained model; "
    "the AUC is the probability that a question that was never trained on has a larger loss than a forgotten one: compare it "
    "with the retrained model's."
)
CHOSEN = (
    "The setting of each method whose answer probabilities on held-out questions, of those to keep and those to forget, are "
    "nearest to the retrained model's in the mean over {seeds}; of equal gaps the one with the smaller loss on held-out "
    "questions to keep. It needs the retrained model, which nobody has who unlearns in earnest: it compares methods at their "
    "best. The reported gap is the same distance on the retain and the forget set."
)
OF_QUESTIONS = Judge(
    reported=("retain/probability", "forget/probability"),
    chosen_by=tuple(f"{part}/probability" for part in VALIDATION),
    ties=("validation retain/loss",),
    front=("validation forget", "validation retain"),
    axes=(
        "token accuracy on held-out questions to forget (left is better)",
        "token accuracy on those to keep (up is better)",
    ),
)


def ensure(config: Unlearning) -> Record:
    """A run's record; fine-tunes the models that are not there."""
    _fine_tune(config)
    return runs.ensure(config)


def case(config: Unlearning) -> Case:
    """Model and data."""
    return runs.case(_fine_tune(config), config.groups, config.microbatch_size)


def row(record: Record) -> Record:
    """A run's numbers, which are of held-out questions, as is the gap."""
    measured = record["measured"]
    distance = gap(measured, record["models"]["retrained"], OF_QUESTIONS.chosen_by)
    return {**measured, "steps": float(record["steps"]), "gap": distance}


def _fine_tune(config: Unlearning) -> task.Task:
    """Fine-tunes the models that are not there; the questions and the model."""
    made = task.build(run_store.part(config, Problem))
    for kind in models.COMMANDS:
        models.ensure(made, kind)
    return made


QUESTIONS = Kind(
    run=Unlearning,
    axes={
        "hard": Axis(
            "What is retained in other words", "hard", ("none", "semantic"), ("ft", "ga", "gdiff", "hamu-q", "hamu-u")
        ),
        "batch-size": Axis("The batch size", "batch_size", (16, 32, 50, 64, 128)),
        **AXES,
        **{name: dataclasses.replace(AXES[name], fixed=HARD) for name in ("stopping", "unavoidable")},
    },
    label=models.data_name,
    ensure=ensure,
    everything=runs.measured,
    case=case,
    judge=OF_QUESTIONS,
    columns={
        "retain probability": "retain/probability",
        "retain ROUGE-L": "retain/rouge",
        "forget probability": "forget/probability",
        "forget ROUGE-L": "forget/rouge",
        "truth ratio": "forget/truth ratio",
        "forget quality": "forget quality",
        "model utility": "model utility",
        "AUC": "forget unseen AUC, loss",
        "gap": "gap",
    },
    details={
        "held-out retain probability": "validation retain/probability",
        "held-out forget probability": "validation forget/probability",
        "duplicates' probability": "duplicates/probability",
        "retain loss": "retain/loss",
        "forget loss": "forget/loss",
        "exact memorisation": "forget/accuracy",
        "extraction strength": "forget/extraction",
        "AUC, min-k": "forget unseen AUC, min-k",
    },
    row=row,
    along={
        "held-out retain probability": "validation retain/probability",
        "held-out forget probability": "validation forget/probability",
        "held-out retain loss": "validation retain/loss",
        "held-out forget loss": "validation forget/loss",
        "held-out gap": "gap",
        "steps": "steps",
    },
    panels={
        "answer probability, kept": "validation retain/probability",
        "forgotten": "validation forget/probability",
        "gap (all of held-out questions)": "gap",
    },
    explained=EXPLAINED,
    chosen=CHOSEN,
)


@dataclasses.dataclass(frozen=True)
class Sweep(Varied, Unlearning):
    """A sweep's settings: those of a run, and what is varied."""

    kind: ClassVar[Kind] = QUESTIONS
