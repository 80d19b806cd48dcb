"""Sweeps and the comparison of all methods on images."""

from pathlib import Path
from typing import Any

from experiments.comparison.modality import Modality
from experiments.comparison.sweep import run_sweep
from experiments.vision import models, runs
from experiments.vision.config import AXES, Sweep

EXPLAINED = (
    "Mean ± standard deviation over runs: {trained} trained model(s), and {seeds} unlearning run(s) on each. With one trained "
    "model the spread is that of unlearning alone, which is only a part of what another training would change. Retain and "
    "forget accuracy are of training images; test accuracy is of test images whose classes are in the proportions of the "
    "retain set, test forget accuracy in those of the forget set. The membership AUC is the probability that such a test image "
    "has a larger loss than a forgotten one: compare it with the retrained model's. The gap is the mean distance to the "
    "retrained model's four accuracies."
)


def sweep_images(settings: Sweep, name: str, mesh: Any = None) -> Path:
    """Makes a sweep; returns the path of the text."""
    return run_sweep(IMAGES, name, settings, mesh)


IMAGES = Modality(
    program="vision",
    axes=AXES,
    label=lambda problem: f"rho {problem.rho:g}",
    record=runs.run_record,
    scenario=runs.load_scenario,
    level=runs.level,
    train_missing=models.train_missing,
    explained=EXPLAINED,
)
