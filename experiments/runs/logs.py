"""A run's history as TensorBoard event files, or in Weights & Biases."""

import importlib
from pathlib import Path
from typing import Any

from experiments.runs.config import Logging
from hamu_jax import History

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check(settings: Logging) -> None:
    """Checks that the packages of the logs that are asked for are installed.

    Raises:
      ImportError: naming the package.
    """
    for name, package in PACKAGES.items():
        if getattr(settings, name):
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ImportError(f"{name}: got True, expected {package} installed: pip install {package}") from error


def write(history: History, directory: Path, run: dict[str, Any], settings: Logging) -> None:
    """Writes every number of every step, with packages that `check` found."""
    if settings.tensorboard:
        with importlib.import_module(PACKAGES["tensorboard"]).SummaryWriter(str(directory / "tensorboard")) as writer:
            for row in history.rows:
                for name, value in _numbers(row).items():
                    writer.add_scalar(name, value, row["step"])
    if settings.wandb:
        with importlib.import_module(PACKAGES["wandb"]).init(
            project="hamu_jax", name=directory.name, dir=directory, config=run
        ) as log:
            for row in history.rows:
                log.log(_numbers(row), step=row["step"])


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row that can be drawn."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, (int, float))}
