"""Unlearning runs: made once, kept, and read again."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import hamu_jax
from experiments import methods, unlearning
from experiments.data import images
from experiments.unlearning import Case, Record
from experiments.vision import models, task
from experiments.vision.config import Problem, Unlearning
from hamu_jax import report

ELSEWHERE = ("out", "data_dir", "download", "devices", "mesh", "distributed", "tensorboard", "wandb")  # not what a run is


def made(config: Unlearning) -> Record:
    """The settings that decide a run's result."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in ELSEWHERE}


def directory(config: Unlearning) -> Path:
    """Where a run is kept: its main settings, and a hash of all.

    Raises:
      ValueError: for a name that is not a method.
    """
    if config.method not in methods.METHODS:
        raise ValueError(f"method: got {config.method!r}, expected one of {', '.join(methods.METHODS)}")
    digest = hashlib.sha256(json.dumps(made(config), sort_keys=True).encode()).hexdigest()[:8]
    promise = f"-q{config.improvement:g}" if methods.METHODS[config.method].promises else ""
    name = f"{config.method}-rho{config.rho:g}-lr{config.learning_rate:g}{promise}-seed{config.seed}-{digest}"
    return config.out / "runs" / name


def ensure(config: Unlearning) -> Record:
    """A run's record: read if there is one, else made and kept."""
    path = directory(config) / "run.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return unlearn(config)[1]


def unlearn(config: Unlearning, mesh: Any = None, *, progress: bool = True) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run and keeps its record, `run.json`; goes on from its last checkpoint, and only reads it if it was the end.

    Returns:
      What the driver returned, and the record.

    Raises:
      ValueError: for a name that is not a method.
      FileNotFoundError: if a model is missing, naming the command that makes it.
    """
    place, here = directory(config), case(problem(config), config.groups)
    result, record = unlearning.run(
        here,
        build(config, here.subject),
        steps=config.steps,
        evaluations=config.evaluations,
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        seed=config.seed,
        stopping=hamu_jax.Stopping(config.stop_unavoidable, config.stop_criterion, config.stop_infeasible),
        checkpoints=hamu_jax.Checkpoints(place / "checkpoints", every=config.checkpoint_every, keep=1),
        measure_every=config.measure_every,
        mesh=mesh,
        progress=progress,
    )
    record = {
        "made": made(config),
        "split": here.split,
        "environment": report.environment(),
        "models": here.models,
        "reason": result.reason,
        **record,
    }
    if not (place / "run.json").exists():
        report.write_whole(place / "run.json", json.dumps(record, indent=1) + "\n")
    return result, record


def build(config: Unlearning, subject: methods.Subject) -> methods.Built:
    """The method with its settings."""
    method = methods.METHODS[config.method]
    given = {"blocks": config.blocks, "distribution": config.distribution}
    return methods.build(
        method,
        subject,
        learning_rate=config.learning_rate,
        improvement=config.improvement if method.promises else 0.0,
        clip_norm=config.clip_norm,
        infeasible=config.infeasible,
        base=config.base,
        radius=config.radius,
        **{name: value for name, value in given.items() if value is not None},
    )


def problem(config: Unlearning) -> Problem:
    """The part of the settings that runs share."""
    return Problem(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Problem)})


@functools.lru_cache(maxsize=1)
def case(config: Problem, groups: int) -> Case:
    """Images and models, and what methods and metrics ask of them."""
    made = task.build(config)
    (params, statistics), (other, other_statistics) = (models.load(config, made, kind) for kind in ("full", "retrained"))
    loss, retrained = made.loss(statistics), made.loss(other_statistics)
    classes = images.SOURCES[config.dataset].classes
    prepare = functools.partial(methods.prepare, loss, params, classes=classes, groups=groups, seed=config.split_seed)
    splits = {
        name: {**prepare(part), "retrained": methods.logits(retrained.apply, other, part)} for name, part in made.parts.items()
    }
    retain, forget = (prepare(task.take(made.train, rows)) for rows in (made.split.retain, made.split.forget))
    measured = {
        "full": unlearning.measure(loss, params, splits),
        "retrained": unlearning.measure(retrained, other, splits),
    }
    subject = methods.Subject(loss, params, forget, methods.requests(groups))
    return Case(subject, retain, splits, measured, made.split.sha256)
