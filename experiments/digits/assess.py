"""The assessment, before anything is changed, of what it would take to make a model forget one digit.

Trains the quickstart's full model, measures how hard each layer and each image of the class would be to forget and which
retained images would pay, and writes assessment.md, assessment.json and pictures.
"""

import json
from pathlib import Path
from typing import Any

import hamu_jax
from experiments.digits.config import Assessment
from experiments.digits.task import build_task
from experiments.runs.provenance import settings_record, write_results
from hamu_jax import report

CAPTIONS = {
    "trade_off": "The least change of the retain loss that a required improvement costs, per unit of learning rate.",
    "blocks": "How the retain and the forget gradient meet in each layer: below 90 degrees they conflict, and the smaller the "
    "angle, the harder. Coloured by what the planned step meets there.",
    "examples": "Each image of the forget set: the further to the right, the more forgetting it hurts the retain set.",
    "collateral": "What the planned step does to each retained image's loss, to first order and per unit of learning rate.",
}


def assess_digits(settings: Assessment, mesh: Any = None) -> Path:
    """Runs it; returns the path of the text."""
    task = build_task(settings.forget_class, settings.seed)
    params = task.train(task.split.train, settings.epochs, "full")
    assessment = hamu_jax.assess(task.loss, params, *task.parts["train"], settings.improvement, mesh=mesh)
    for name, figure in report.plot_assessment(assessment).items():
        report.save_figure(figure, settings.out / f"{name}.png")
    sections = [
        f"# Before forgetting the digit {settings.forget_class}",
        assessment.verdict,
        assessment.table(),
        "Rows count from 0, in the training images of the forgotten class and of the other classes. Changes are to first "
        "order, per unit of learning rate.",
        *(f"![{caption}]({name}.png)\n\n{caption}" for name, caption in CAPTIONS.items()),
    ]
    numbers = {"assessment": json.loads(assessment.to_json())}
    return write_results(settings.out, "assessment", settings_record("digits", settings), numbers, sections=sections)
