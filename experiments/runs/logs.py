"""A run's history as TensorBoard event files, or in Weights & Biases."""

import importlib
from pathlib import Path
from typing import Any

from hamu_jax import History

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check(*, tensorboard: bool, wandb: bool) -> None:
    """Checks that what is asked for is installed.

    Raises:
      ImportError: naming the package.
    """
    for name, asked in (("tensorboard", tensorboard), ("wandb", wandb)):
        if asked:
            try:
                importlib.import_module(PACKAGES[name])
            except ImportError as error:
                raise ImportError(
                    f"{name}: got True, expected {PACKAGES[name]} installed: pip install {PACKAGES[name]}"
                ) from error


def write(history: History, directory: Path, settings: dict[str, Any], *, tensorboard: bool, wandb: bool) -> None:
    """Writes every number of every step, with packages that `check` found."""
    if tensorboard:
        with importlib.import_module(PACKAGES["tensorboard"]).SummaryWriter(str(directory / "tensorboard")) as writer:
            for row in history.rows:
                for name, value in _numbers(row).items():
                    writer.add_scalar(name, value, row["step"])
    if wandb:
        with importlib.import_module(PACKAGES["wandb"]).init(
            project="hamu_jax", name=directory.name, dir=directory, config=settings
        ) as run:
            for row in history.rows:
                run.log(_numbers(row), step=row["step"])


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """What can be drawn."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, (int, float))}
