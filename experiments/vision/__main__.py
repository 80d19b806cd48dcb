"""Unlearning on images, a command a stage.

python -m experiments.vision train|retrain [--out DIR] [--data-dir DIR] [--rho RHO] ...
"""

import sys
from typing import Annotated

import tyro

from experiments.vision import models, task
from experiments.vision.config import Subject

Train = Annotated[Subject, tyro.conf.subcommand("train")]


def main(kind: str, config: Subject) -> None:
    """Runs a command."""
    models.ensure(config, task.build(config), kind)


if __name__ == "__main__":
    main({"train": "full", "retrain": "retrained"}[sys.argv[1]], tyro.cli(Subject, args=sys.argv[2:]))
