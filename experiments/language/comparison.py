"""Sweeps and the comparison of all methods on language models."""

from pathlib import Path
from typing import Any

from experiments.comparison.modality import Modality
from experiments.comparison.summary import Judge
from experiments.comparison.sweep import run_sweep
from experiments.language import models, runs
from experiments.language.config import AXES, Sweep
from experiments.language.measures import VALIDATION

EXPLAINED = (
    "Mean ± standard deviation over runs: {trained} fine-tuned model(s), and {seeds} unlearning run(s) on each. With one model "
    "the spread is that of unlearning alone. Retain and forget are the questions that a run retains and forgets; held-out are "
    "others about the same persons, which the full model learned too. Probability is that of an answer's token (geometric "
    "mean); forget quality is the p-value of a test that the truth ratios on the forget set are those of the retrained model; "
    "the AUC is the probability that a question that was never trained on has a larger loss than a forgotten one: compare it "
    "with the retrained model's."
)
CHOSEN = (
    "The setting of each method whose answer probabilities on held-out questions, of the retain and of the forget set, are "
    "nearest to the retrained model's in the mean over {seeds}; of equal gaps the one with the smaller loss on held-out "
    "questions to keep. The choice needs the retrained model, which is missing when a deletion request is served: methods are "
    "compared at their best. The reported gap is the same distance on the retain and the forget set."
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


def sweep_questions(settings: Sweep, name: str, mesh: Any = None) -> Path:
    """Makes a sweep; returns the path of the text."""
    return run_sweep(QUESTIONS, name, settings, mesh)


QUESTIONS = Modality(
    program="language",
    axes=AXES,
    label=models.data_name,
    record=runs.run_record,
    scenario=runs.load_scenario,
    level=runs.level,
    train_missing=models.train_missing,
    explained=EXPLAINED,
    chosen=CHOSEN,
    measured=runs.all_measured,
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
    costs={"held-out": "validation retain/loss", "retain": "retain/loss"},
    lost={"held-out probability lost": "validation retain/probability"},
    gap_along=OF_QUESTIONS.chosen_by,
    along={
        "held-out retain probability": "validation retain/probability",
        "held-out forget probability": "validation forget/probability",
        "held-out retain loss": "validation retain/loss",
        "held-out forget loss": "validation forget/loss",
        "held-out gap": "gap",
        "steps": "steps",
    },
    panels={
        "answer probability, retain set": "validation retain/probability",
        "forget set": "validation forget/probability",
        "gap (all of held-out questions)": "gap",
    },
)
