"""Unlearning on handwritten digits: assess, owners, and `sweep NAME`, which compares methods; `--help` lists the options.

The quickstart is `python -m experiments.quickstart`.
"""

from typing import Annotated

import tyro

from experiments.comparison.config import WITHOUT_AXIS
from experiments.digits.config import AXES, Assessment, Owners, Sweep
from experiments.runs import command
from experiments.runs.config import Group


def assess(settings: Group[Assessment]) -> None:
    """Measures, before anything is changed, how hard each layer and each image of one digit is to forget."""
    command.run("experiments.digits.assess:assess_digits", settings)


def owners(settings: Group[Owners]) -> None:
    """Twenty people ask at once that their digits be forgotten: a promise to their average, or one to each of them."""
    command.run("experiments.digits.owners:compare_promises", settings)


def sweep(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=", ".join((*AXES, *WITHOUT_AXIS)))],
    settings: Group[Sweep],
) -> None:
    """Makes a sweep, or compares all methods (`baselines`)."""
    command.run("experiments.digits.comparison:sweep_digits", settings, name, cache=True)


if __name__ == "__main__":
    commands = {"assess": assess, "owners": owners, "sweep": sweep}
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m experiments.digits", description=__doc__)
