"""The quickstart: one digit is forgotten, and a report compares the full, the unlearned and the retrained model."""

import math
from pathlib import Path
from typing import Any

import hamu_jax
from experiments.data.digits import CLASSES
from experiments.digits.config import Quickstart
from experiments.digits.task import build_task
from experiments.runs.provenance import settings_record
from hamu_jax import report


def run_quickstart(settings: Quickstart, mesh: Any = None) -> Path:
    """Runs it; returns the path of the report's text.

    The level is chance, the logarithm of the number of classes: images of a class that a model never saw have no right answer.
    Validation images of the other classes decide which parameters are returned; test images are only measured.
    """
    if not 0 <= settings.forget_class < CLASSES:
        raise ValueError(f"forget_class: got {settings.forget_class}, expected a digit from 0 to {CLASSES - 1}")
    task = build_task(settings.forget_class, settings.seed)
    retain, forget = task.parts["train"]
    full = task.train(task.split.train, settings.epochs, "full")
    retrained = task.train(retain, settings.epochs, "retrained")
    result = hamu_jax.forget(
        task.loss,
        full,
        retain,
        forget,
        level=math.log(CLASSES),
        held_out=task.parts["validation"][0],
        batch_size=settings.batch_size,
        steps=settings.steps,
        seed=settings.seed,
        mesh=mesh,
    )
    models = {"full": full, "unlearned": result.params, "retrained": retrained}
    accuracy = {"accuracy": task.metrics["accuracy"]}
    splits = task.named_splits("train", "test")
    written = report.write_outcome(
        settings.out,
        result,
        loss=task.loss,
        params=full,
        sets={"forget": forget, "retain": retain},
        title=f"Forgetting the digit {settings.forget_class}",
        settings=settings_record("quickstart", settings),
        models={name: hamu_jax.evaluate(task.loss, params, splits, accuracy) for name, params in models.items()},
    )
    return written.with_suffix(".md")
