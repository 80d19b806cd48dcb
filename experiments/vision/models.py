"""The full and the retrained model on images: trained once, stored, and loaded."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optax
import orbax.checkpoint as ocp

import hamu_jax
from experiments.data import splits
from experiments.data.text_files import read_json
from experiments.runs.provenance import write_json
from experiments.runs.training import fit
from experiments.vision.config import ModelSettings, Training
from experiments.vision.task import Task, build_task, take
from hamu_jax import metrics, report

COMMANDS = {"full": "train", "retrained": "retrain"}


def model_directory(settings: ModelSettings, kind: str) -> Path:
    """Where a model is stored."""
    problem = settings.problem
    split = "" if kind == "full" else f"-class{problem.forget_class}-rho{problem.rho:g}-split{problem.split_seed}"
    return settings.out / "models" / f"{kind}{split}-seed{problem.training.seed}"


def train_missing(settings: ModelSettings, mesh: Any = None) -> None:
    """Trains the models that are missing, on one device."""
    del mesh
    for kind in COMMANDS:
        if not (model_directory(settings, kind) / "model.json").exists():
            train_or_load(settings, build_task(settings.problem, settings.files), kind)


def train_or_load(settings: ModelSettings, task: Task, kind: str) -> tuple[Any, Any]:
    """Parameters and batch statistics of the `full` or the `retrained` model: loaded, or trained and stored.

    Training resumes from its last checkpoint if it was interrupted. A file `model.json`, written last, holds the settings that
    the model was made with.

    Raises:
      ValueError: if there is a model made with other settings.
    """
    problem, directory = settings.problem, model_directory(settings, kind)
    made_with = {"dataset": problem.dataset, "limit": problem.limit, "validation": problem.held_out}
    made_with |= dataclasses.asdict(problem.training)
    if kind != "full":
        made_with["split"] = task.split.sha256
    _check(directory, made_with)
    if (directory / "model.json").exists():
        return load(settings, task, kind)
    write_json(directory / "settings.json", made_with)
    params, statistics = _trained(problem.training, task, kind, directory / "training")
    with ocp.StandardCheckpointer() as writer:
        writer.save((directory / "model").absolute(), {"params": params, "statistics": statistics}, force=True)
    write_json(directory / "model.json", {"made": made_with, "environment": report.environment()})
    return params, statistics


def load(settings: ModelSettings, task: Task, kind: str) -> tuple[Any, Any]:
    """A model that was trained before.

    Raises:
      FileNotFoundError: if it was not, naming the command.
    """
    directory = model_directory(settings, kind)
    if not (directory / "model.json").exists():
        command = f"python -m experiments.vision {COMMANDS[kind]}"
        raise FileNotFoundError(f"out: {directory} holds no {kind} model, expected one: {command}")
    like = dict(zip(("params", "statistics"), task.start, strict=True))
    with ocp.StandardCheckpointer() as reader:
        model = reader.restore((directory / "model").absolute(), like)
    return model["params"], model["statistics"]


def measure(task: Task, model: tuple[Any, Any], splits: Mapping[str, Any]) -> dict[str, float]:
    """Mean loss and accuracy on every split."""
    return hamu_jax.evaluate(task.model_loss, model, splits, {"accuracy": metrics.accuracy(task.model_loss.apply)})


def _check(directory: Path, made_with: dict[str, Any]) -> None:
    """Checks that the model in a directory, finished or not, has these settings."""
    path = directory / "settings.json"
    if not path.exists():
        return
    before = read_json(path)
    for name, value in made_with.items():
        if before.get(name) != value:
            raise ValueError(f"{name}: got {value!r}, but {directory} has a model with {before.get(name)!r}: use another --out")


def _trained(training: Training, task: Task, kind: str, checkpoints: Path) -> tuple[Any, Any]:
    """Trains it; the best on validation images of the classes that it is trained on."""
    data = task.trained_on(kind)
    size = min(training.batch_size, len(data["label"]))
    steps = -(-training.epochs * len(data["label"]) // size)
    rows = slice(None) if kind == "full" else splits.alike(task.validation["label"], data["label"])
    validation = {"validation": take(task.validation, rows)}

    def score(params: Any, statistics: Any) -> float:
        return measure(task, (params, statistics), validation)["validation/accuracy"]

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
