"""Sweeps of the experiments on images."""

import dataclasses
from typing import ClassVar

from experiments.comparison import compare
from experiments.comparison.summary import COLUMNS, DETAILS, MODELS, OF_IMAGES, gap
from experiments.comparison.config import AXES, Axis, Kind, Varied
from experiments.runs.unlearning import Case, Record
from experiments.vision import models, runs, task
from experiments.vision.config import Unlearning

HALF = {"rho": 0.5}  # as in the paper
EXPLAINED = (
    "Mean ± standard deviation over runs: {trained} trained model(s), and {seeds} unlearning run(s) on each. With one trained "
    "model the spread is that of unlearning alone, which is only a part of what another training would change. Retain and "
    "forget accuracy are of training images; test accuracy is of test images whose classes are in the proportions of the "
    "retain set, test forget accuracy in those of the forget set. The membership AUC is the probability that such a test image "
    "has a larger loss than a forgotten one: compare it with the retrained model's. The gap is the mean distance to the "
    "retrained model's four accuracies."
)


def ensure(config: Unlearning) -> Record:
    """A run's record; trains the models that are not there."""
    _train(config)
    return runs.ensure(config)


def everything(config: Unlearning) -> dict[str, Record]:
    """What the three models measure: all of it is in the record."""
    record = ensure(config)
    return {**record["models"], "unlearned": record["measured"]}


def case(config: Unlearning) -> Case:
    """Model and data."""
    _train(config)
    return runs.case(runs.problem(config), config.groups)


def row(record: Record) -> Record:
    """A run's numbers."""
    measured = record["measured"]
    distance = gap(measured, record["models"]["retrained"], OF_IMAGES.reported)
    return {**measured, "steps": float(record["steps"]), "gap": distance}


def _train(config: Unlearning) -> None:
    """Trains the models that are not there."""
    for kind in MODELS:
        if not (models.directory(config, kind) / "model.json").exists():
            models.ensure(config, task.build(config), kind)


IMAGES = Kind(
    run=Unlearning,
    axes={
        "rho": Axis("From easy to hard", "rho", (0.0, 0.25, 0.5, 0.75, 1.0), ("ft", "ga", "gdiff", "hamu-q", "hamu-u")),
        "batch-size": Axis("The batch size", "batch_size", (128, 256, 512, 1024, 2048)),
        **AXES,
        **{name: dataclasses.replace(AXES[name], fixed=HALF) for name in ("stopping", "unavoidable")},
    },
    label=lambda config: f"rho {config.rho:g}",
    ensure=ensure,
    everything=everything,
    case=case,
    judge=OF_IMAGES,
    columns=COLUMNS,
    details=DETAILS,
    row=row,
    along={name: column for name, column in COLUMNS.items() if column != "hypervolume"} | {"steps": "steps"},
    panels={"accuracy on what is kept": "test retain/accuracy", "on what is forgotten": "forget/accuracy", "gap": "gap"},
    explained=EXPLAINED,
    chosen=compare.CHOSEN,
)


@dataclasses.dataclass(frozen=True)
class Sweep(Varied, Unlearning):
    """A sweep's settings: those of a run, and what is varied."""

    kind: ClassVar[Kind] = IMAGES
