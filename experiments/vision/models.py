"""The full and the retrained model: trained once, kept, and loaded."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optax
import orbax.checkpoint as ocp

import hamu_jax
from experiments.data import splits
from experiments.runs.training import fit
from experiments.vision.config import Problem, Training
from experiments.vision.task import Task, take
from hamu_jax import metrics, report

MADE_BY = ("dataset", "limit", "validation")  # what a model depends on, beside its training


def directory(config: Problem, kind: str) -> Path:
    """Where a model is kept."""
    split = "" if kind == "full" else f"-class{config.forget_class}-rho{config.rho:g}-split{config.split_seed}"
    return config.out / "models" / f"{kind}{split}-seed{config.training.seed}"


def ensure(config: Problem, task: Task, kind: str) -> tuple[Any, Any]:
    """Parameters and batch statistics of the `full` or the `retrained` model: loaded, or trained and kept.

    Training goes on from its last checkpoint if it was interrupted. A file `model.json`, written last, says what the model
    was made of.

    Raises:
      ValueError: if there is a model made with other settings.
    """
    place = directory(config, kind)
    made = {name: getattr(config, name) for name in MADE_BY} | dataclasses.asdict(config.training)
    if kind != "full":
        made["split"] = task.split.sha256
    _check(place, made)
    if (place / "model.json").exists():
        return load(config, task, kind)
    report.write_whole(place / "settings.json", json.dumps(made, indent=1) + "\n")
    params, statistics = _trained(config, task, kind, place / "training")
    with ocp.StandardCheckpointer() as writer:
        writer.save((place / "model").absolute(), {"params": params, "statistics": statistics}, force=True)
    record = {"made": made, "environment": report.environment()}
    report.write_whole(place / "model.json", json.dumps(record, indent=1) + "\n")
    return params, statistics


def load(config: Problem, task: Task, kind: str) -> tuple[Any, Any]:
    """A model that was trained before.

    Raises:
      FileNotFoundError: if it was not, naming the command.
    """
    place, command = directory(config, kind), "train" if kind == "full" else "retrain"
    if not (place / "model.json").exists():
        raise FileNotFoundError(f"out: {place} holds no {kind} model, expected one: python -m experiments.vision {command}")
    like = dict(zip(("params", "statistics"), task.start, strict=True))
    with ocp.StandardCheckpointer() as reader:
        held = reader.restore((place / "model").absolute(), like)
    return held["params"], held["statistics"]


def measure(task: Task, model: tuple[Any, Any], parts: Mapping[str, Any]) -> dict[str, float]:
    """Mean loss and accuracy on every part."""
    return hamu_jax.evaluate(task.model_loss, model, parts, {"accuracy": metrics.accuracy(task.model_loss.apply)})


def _check(place: Path, made: dict[str, Any]) -> None:
    """Checks that what is in a directory was made, or begun, with these settings."""
    path = place / "settings.json"
    if not path.exists():
        return
    held = json.loads(path.read_text(encoding="utf-8"))
    for name, value in made.items():
        if held.get(name) != value:
            raise ValueError(f"{name}: got {value!r}, but {place} has a model with {held.get(name)!r}: use another --out")


def _trained(config: Problem, task: Task, kind: str, checkpoints: Path) -> tuple[Any, Any]:
    """Trains it; the best on validation images whose classes are those that it knows."""
    training, data = config.training, task.trained_on(kind)
    size = min(training.batch_size, len(data["label"]))
    steps = -(-training.epochs * len(data["label"]) // size)
    known = slice(None) if kind == "full" else splits.alike(task.validation["label"], data["label"])
    seen = {"validation": take(task.validation, known)}

    def score(params: Any, statistics: Any) -> float:
        return measure(task, (params, statistics), seen)["validation/accuracy"]

    return fit(
        task.training_loss(training),
        *task.start,
        data,
        optax.adamw(_schedule(training, steps), weight_decay=training.weight_decay),
        steps=steps,
        batch_size=size,
        seed=training.seed,
        name=kind,
        score=score,
        every=-(-steps // training.evaluations),
        directory=checkpoints,
    )


def _schedule(training: Training, steps: int) -> optax.Schedule:
    """The learning rate over the steps."""
    if training.schedule == "linear":
        return optax.linear_schedule(training.learning_rate, 0.0, steps)
    return optax.cosine_onecycle_schedule(steps, training.learning_rate, pct_start=0.2)
