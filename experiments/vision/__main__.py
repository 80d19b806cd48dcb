"""Unlearning on images, a command a stage: train, retrain, unlearn, evaluate, report; `--help` after each says its options.

Models and runs are kept in `--out`; what is there is not made again, and what was interrupted goes on.
"""

from typing import Annotated

import tyro

from experiments.runs.compile_cache import say
from experiments.vision import commands
from experiments.vision.config import Problem, Unlearning

OfProblem = Annotated[Problem, tyro.conf.arg(name="")]
OfUnlearning = Annotated[Unlearning, tyro.conf.arg(name="")]


def train(config: OfProblem) -> None:
    """Trains the full model, on all training images."""
    say(commands.train, config, "full")


def retrain(config: OfProblem) -> None:
    """Trains a model from scratch on what is to be retained: what forgetting is compared with."""
    say(commands.train, config, "retrained")


def unlearn(config: OfUnlearning) -> None:
    """Makes the full model forget."""
    say(commands.unlearn, config)


def evaluate(config: OfUnlearning) -> None:
    """Evaluates the full, the retrained and the unlearned model."""
    say(commands.evaluate, config)


def report(config: OfUnlearning) -> None:
    """Writes a report of an unlearning run."""
    say(commands.report, config)


COMMANDS = {"train": train, "retrain": retrain, "unlearn": unlearn, "evaluate": evaluate, "report": report}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m experiments.vision", description=__doc__)
