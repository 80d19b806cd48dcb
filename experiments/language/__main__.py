"""Unlearning on language models, a command a stage: finetune, retrain, unlearn, evaluate, report; `--help` says its options.

Adapters and runs are kept in `--out`; what is there is not made again, and what was interrupted goes on. `sweep NAME` makes
many runs, and one table and one figure of them.
"""

import sys
from typing import Annotated

import tyro

from experiments.language import commands
from experiments.language.config import Problem, Unlearning
from experiments.runs.compile_cache import say
from experiments.language import comparison
from experiments.comparison.sweep import main

OfProblem = Annotated[Problem, tyro.conf.arg(name="")]
OfUnlearning = Annotated[Unlearning, tyro.conf.arg(name="")]


def finetune(config: OfProblem) -> None:
    """Fine-tunes the full model, on what is to be retained and what is to be forgotten."""
    say(commands.train, config, "full")


def retrain(config: OfProblem) -> None:
    """Fine-tunes a model on what is to be retained alone: what forgetting is compared with."""
    say(commands.train, config, "retrained")


def unlearn(config: OfUnlearning) -> None:
    """Makes the full model forget, and measures it on held-out questions."""
    say(commands.unlearn, config)


def evaluate(config: OfUnlearning) -> None:
    """Measures all of the full, the retrained and the unlearned model."""
    say(commands.evaluate, config)


def report(config: OfUnlearning) -> None:
    """Writes a report of an unlearning run: pictures, hardness of each question, answers before and after."""
    say(commands.report, config)


def sweep(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=", ".join(comparison.QUESTIONS.names))],
    config: Annotated[comparison.Sweep, tyro.conf.arg(name="")],
) -> None:
    """Runs one of the paper's sweeps, or all baselines."""
    written = main(name, config, "language")
    sys.stdout.write(written.read_text(encoding="utf-8") + f"\nThe results are in {written.parent}/\n")


RUN = {"finetune": finetune, "retrain": retrain, "unlearn": unlearn, "evaluate": evaluate, "report": report}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({**RUN, "sweep": sweep}, prog="python -m experiments.language", description=__doc__)
