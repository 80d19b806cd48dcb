"""The full and the retrained model's adapters: fine-tuned once, kept in PEFT's format, and loaded."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import optax

from experiments.runs import run_store
from experiments.data.questions import Question
from experiments.language import base, measures
from experiments.language.config import Problem
from experiments.language.task import Task
from experiments.models import peft_format
from experiments.models.lora import Adapter
from experiments.runs.training import fit
from experiments.runs.unlearning import Record
from hamu_jax import report

COMMANDS = {"full": "finetune", "retrained": "retrain"}
ADAPTER = "adapter"


def made(task: Task, kind: str) -> Record:
    """What decides a model: also the questions that it was trained on, and no others."""
    config = task.config
    return {
        "model": base.name(config),
        "dtype": config.dtype,
        "max_length": config.max_length,
        "questions": run_store.digest({kind: [_text(one) for one in task.parts.trained_on(kind)]}),
        "training": dataclasses.asdict(config.training),
    }


def directory(task: Task, kind: str) -> Path:
    """Where a model is kept: what it is, and a hash of what decides it."""
    config = task.config
    name = f"{kind}-{Path(base.name(config)).stem}-{data_name(config)}-{run_store.digest(made(task, kind))}"
    return config.out / "models" / name


def data_name(config: Problem) -> str:
    """The data's name, and what makes it hard."""
    name = config.data[0] if len(config.data) == 1 else "files"
    return name if config.hard == "none" else f"{name}-{config.hard}"


def ensure(task: Task, kind: str) -> None:
    """Fine-tunes and keeps the adapter of the `full` or the `retrained` model, unless it is there.

    Training goes on from its last checkpoint if it was interrupted. A file `model.json`, written last, says what the model was
    made of.
    """
    place = directory(task, kind)
    if not (place / "model.json").exists():
        keep(task, place, _trained(task, kind, place / "training"))
        record = {"made": made(task, kind), "environment": report.environment()}
        report.write_whole(place / "model.json", json.dumps(record, indent=1) + "\n")


def load(task: Task, kind: str) -> Adapter:
    """An adapter that was fine-tuned before.

    Raises:
      FileNotFoundError: if it was not, naming the command.
    """
    place = directory(task, kind)
    if not (place / "model.json").exists():
        command = f"python -m experiments.language {COMMANDS[kind]}"
        raise FileNotFoundError(f"out: {place} holds no {kind} model, expected one: {command}, with the same options")
    return kept(place)


def keep(task: Task, place: Path, adapter: Adapter) -> None:
    """Keeps an adapter in a directory that PEFT opens, in the place of the one that may be there."""
    assert task.base.network.lora is not None  # as `base.load` has it
    shutil.rmtree(place / ADAPTER, ignore_errors=True)
    peft_format.save(place / ADAPTER, task.base.network.lora, jax.device_get(adapter), base=base.name(task.config))


def kept(place: Path) -> Adapter:
    """The adapter that is kept in a directory."""
    return peft_format.load(place / ADAPTER)[1]


def validation(task: Task, kind: str) -> Record:
    """What the model measures on held-out questions; measured once."""
    return run_store.kept(
        _beside(task, directory(task, kind), "validation"), lambda: measures.validation(task, load(task, kind))
    )


def measure(task: Task, place: Path, ratios: Any = None) -> Record:
    """All that is measured of the adapter that is kept in a directory; measured once."""
    return run_store.kept(_beside(task, place, "measured"), lambda: measures.measure(task, kept(place), ratios))


def _beside(task: Task, place: Path, what: str) -> Path:
    """The file of measurements on these parts of the questions."""
    config = task.config
    decided = {"parts": task.parts.sha256, "questions": config.questions, "max_new_tokens": config.max_new_tokens}
    return place / f"{what}-{run_store.digest(decided)}.json"


def _text(one: Question) -> list[Any]:
    """What is trained on of a question."""
    return [one.question, one.answer]


def _trained(task: Task, kind: str, checkpoints: Path) -> Adapter:
    """Fine-tunes it."""
    training, data = task.config.training, task.arrays(task.parts.trained_on(kind))
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
