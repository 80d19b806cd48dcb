"""Unlearning on images, a command per stage: train, retrain, unlearn, evaluate, report; `sweep NAME` makes many runs.

Models and runs are stored in `--out`: what is complete is not made again, and what was interrupted resumes. A sweep writes one
table and one figure. `--help` after a command lists its options.
"""

from typing import Annotated

import tyro

from experiments.comparison.config import WITHOUT_AXIS
from experiments.runs import command
from experiments.runs.config import Group
from experiments.vision.config import AXES, ModelSettings, Sweep, Unlearning


def train(settings: Group[ModelSettings]) -> None:
    """Trains the full model, on all training images."""
    command.run("experiments.vision.commands:train", settings, "full", cache=True)


def retrain(settings: Group[ModelSettings]) -> None:
    """Trains a model from scratch on the retain set: what forgetting is compared with."""
    command.run("experiments.vision.commands:train", settings, "retrained", cache=True)


def unlearn(settings: Group[Unlearning]) -> None:
    """Makes the full model forget."""
    command.run("experiments.vision.commands:unlearn", settings, cache=True)


def evaluate(settings: Group[Unlearning]) -> None:
    """Evaluates the full, the retrained and the unlearned model."""
    command.run("experiments.vision.commands:evaluate", settings, cache=True)


def report(settings: Group[Unlearning]) -> None:
    """Writes a report of an unlearning run."""
    command.run("experiments.vision.report:write_report", settings, cache=True)


def sweep(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=", ".join((*AXES, *WITHOUT_AXIS)))],
    settings: Group[Sweep],
) -> None:
    """Makes one of the paper's sweeps, or compares all baselines."""
    command.run("experiments.vision.comparison:sweep_images", settings, name, cache=True)


COMMANDS = {
    "train": train,
    "retrain": retrain,
    "unlearn": unlearn,
    "evaluate": evaluate,
    "report": report,
    "sweep": sweep,
}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m experiments.vision", description=__doc__)
