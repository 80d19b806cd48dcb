"""Assess, before anything is changed, what it would take to make a model forget one class of real handwritten digits.

    python -m experiments.assess [--out DIR]

Trains the quickstart's full model, measures how hard each layer and each image of the class would be to forget and which
retained images would pay, and writes assessment.md, assessment.json and pictures.
"""

import dataclasses
import json
import sys
from pathlib import Path

import tyro

import hamu_jax
from experiments.digits import task as digits_task
from experiments.runs.devices import OnDevices
from experiments.runs.provenance import settings
from hamu_jax import report

CAPTIONS = {
    "trade_off": "The least change of the retain loss that a required improvement costs, per unit of learning rate.",
    "blocks": "How the retain and the forget gradient meet in each layer: below 90 degrees they conflict, and the smaller the "
    "angle, the harder. Coloured by what the planned step meets there.",
    "examples": "Each image that is to be forgotten: the further to the right, the more its forgetting hurts what is kept.",
    "collateral": "What the planned step does to each retained image's loss, to first order and per unit of learning rate.",
}


@dataclasses.dataclass(frozen=True)
class Config(OnDevices):
    """The assessment's settings; those of training are the quickstart's.

    Attributes:
      out: where the assessment goes.
      forget_class: the digit to forget.
      seed: of the split, the initial weights and the order of examples.
      epochs: of training.
      improvement: the cosine that each layer's step is asked to have with its forget gradient.
    """

    out: Path = Path("assess-out")
    forget_class: int = 3
    seed: int = 0
    epochs: int = 25
    improvement: float = 0.5


def main(config: Config) -> Path:
    """Runs it; returns the path of the text."""
    config, mesh = config.placed()
    task = digits_task.build(config.forget_class, config.seed)
    params = task.train(task.split.train, config.epochs, "full")
    assessment = hamu_jax.assess(task.loss, params, *task.parts["train"], config.improvement, mesh=mesh)
    for name, figure in report.plot_assessment(assessment).items():
        report.save_figure(figure, config.out / f"{name}.png")
    made = settings("assess", config)
    record = {"settings": made, "environment": report.environment(), "assessment": json.loads(assessment.to_json())}
    report.write_whole(config.out / "assessment.json", json.dumps(record, indent=1) + "\n")
    path = config.out / "assessment.md"
    report.write_whole(path, _markdown(config, assessment, {**made, **record["environment"]}))
    return path


def _markdown(config: Config, assessment: hamu_jax.Assessment, made: dict[str, object]) -> str:
    """The assessment's text."""
    pictures = [f"![{caption}]({name}.png)\n\n{caption}" for name, caption in CAPTIONS.items()]
    return "\n\n".join(
        [
            f"# Before forgetting the digit {config.forget_class}",
            assessment.verdict,
            assessment.table(),
            "Rows count from 0, in the training images of the forgotten class and of the other classes. Changes are to first "
            "order, per unit of learning rate.",
            *pictures,
            "## How it was made",
            "\n".join(f"- {key}: `{value}`" for key, value in made.items()) + "\n",
        ]
    )


if __name__ == "__main__":
    written = main(tyro.cli(Config))
    sys.stdout.write(written.read_text(encoding="utf-8"))
    sys.stdout.write(f"\nThe assessment with its pictures is in {written.parent}/\n")
