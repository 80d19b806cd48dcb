"""The full and the retrained model's adapters: fine-tuned once, stored in PEFT's format, and loaded."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.data.questions import Question
from experiments.language import base, measures
from experiments.language.config import ModelSettings, Problem
from experiments.language.task import Task, build_task
from experiments.models import peft_format
from experiments.models.lora import Adapter
from experiments.runs.provenance import write_json
from experiments.runs.run_store import digest, measured_once, without_later
from experiments.runs.training import fit
from experiments.runs.unlearning import Record
from hamu_jax import report

COMMANDS = {"full": "finetune", "retrained": "retrain"}
ADAPTER = "adapter"


def deciding(task: Task, kind: str) -> Record:
    """What decides a model: the settings, and the questions that it is trained on."""
    config = task.problem
    values = {
        "model": base.name(config),
        "dtype": config.dtype,
        "max_length": config.max_length,
        "system_prompt": config.system_prompt,
        "date_string": config.date_string,
        "questions": digest({kind: [_text(question) for question in task.parts.trained_on(kind)]}),
        "training": dataclasses.asdict(config.training),
    }
    return without_later(values)


def model_directory(task: Task, kind: str) -> Path:
    """Where a model is kept: what it is, and a hash of what decides it."""
    config = task.problem
    name = f"{kind}-{Path(base.name(config)).stem}-{data_name(config)}-{digest(deciding(task, kind))}"
    return task.out / "models" / name


def data_name(config: Problem) -> str:
    """The data's name, and what makes it hard."""
    name = config.data[0] if len(config.data) == 1 else "files"
    return name if config.hard == "none" else f"{name}-{config.hard}"


def train_missing(settings: ModelSettings, mesh: Any = None) -> None:
    """Fine-tunes the models that are missing."""
    for kind in COMMANDS:
        train_if_missing(build_task(settings, mesh), kind)


def train_if_missing(task: Task, kind: str) -> None:
    """Fine-tunes and stores the adapter of the `full` or the `retrained` model, if it is missing.

    Training resumes from its last checkpoint if it was interrupted. A file `model.json`, written last, holds what decided the
    model.
    """
    directory = model_directory(task, kind)
    if not (directory / "model.json").exists():
        save_adapter(task, directory, _trained(task, kind, directory / "training"))
        write_json(directory / "model.json", {"made": deciding(task, kind), "environment": report.environment()})


def load(task: Task, kind: str) -> Adapter:
    """An adapter that was fine-tuned before.

    Raises:
      FileNotFoundError: if it was not, naming the command.
    """
    directory = model_directory(task, kind)
    if not (directory / "model.json").exists():
        command = f"python -m experiments.language {COMMANDS[kind]}"
        raise FileNotFoundError(f"out: {directory} holds no {kind} model, expected one: {command}, with the same options")
    return load_adapter(directory)


def save_adapter(task: Task, directory: Path, adapter: Adapter) -> None:
    """Stores an adapter in a directory that PEFT opens, and replaces the one that may be there."""
    assert task.base.network.lora is not None  # as `base.load` has it
    if not all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(adapter)):
        raise ValueError(f"adapter: got numbers that are not finite, expected finite ones: not stored in {directory}")
    shutil.rmtree(directory / ADAPTER, ignore_errors=True)
    peft_format.save(directory / ADAPTER, task.base.network.lora, jax.device_get(adapter), base=base.name(task.problem))


def load_adapter(directory: Path) -> Adapter:
    """The adapter that is stored in a directory."""
    return peft_format.load(directory / ADAPTER)[1]


def validation(task: Task, kind: str) -> Record:
    """What the model measures on the questions that are watched; measured once."""
    path = _measured_file(task, model_directory(task, kind), "watched")
    return measured_once(path, lambda: measures.validation(task, load(task, kind)))


def measure(task: Task, directory: Path, ratios: Any = None) -> Record:
    """All numbers of the adapter that is stored in a directory; measured once."""
    path = _measured_file(task, directory, "measured")
    return measured_once(path, lambda: measures.measure(task, load_adapter(directory), ratios))


def _measured_file(task: Task, directory: Path, what: str) -> Path:
    """The file of measurements on these splits of the questions."""
    config = task.evaluation
    decided = {"parts": task.parts.sha256, "questions": config.questions, "max_new_tokens": config.max_new_tokens}
    return directory / f"{what}-{digest(decided)}.json"


def _text(question: Question) -> list[Any]:
    """The texts of a question that are trained on."""
    return [question.question, question.answer]


def _trained(task: Task, kind: str, checkpoints: Path) -> Adapter:
    """Fine-tunes it."""
    training, data = task.problem.training, task.arrays(task.parts.trained_on(kind))
    size = min(training.batch_size, len(data["label"]))
    steps = -(-training.epochs * len(data["label"]) // size)
    adapter, _ = fit(
        task.training_loss,
        task.base.adapter(training.seed),
        (),
        data,
        optax.adamw(training.learning_rate, weight_decay=training.weight_decay),
        steps=steps,
        batch_size=size,
        seed=training.seed,
        name=kind,
        every=-(-steps // training.checkpoints),
        directory=checkpoints,
    )
    return adapter
