"""Unlearning runs: made once, kept, and read again."""

import functools
from pathlib import Path
from typing import Any

import hamu_jax
from experiments.runs import run_store, unlearning
from experiments import methods
from experiments.data import images
from experiments.runs.unlearning import Case, Record
from experiments.vision import models, task
from experiments.vision.config import Problem, Unlearning

# Images whose gradient SalUn takes at once, of the whole forget set's. Of all 2,000 it took nine minutes to compile, and 9 GB.
AT_ONCE = 128


def directory(config: Unlearning) -> Path:
    """Where a run is kept: its main settings, and a hash of all.

    Raises:
      ValueError: for a name that is not a method.
    """
    return run_store.directory(config, config.out, f"rho{config.rho:g}")


def ensure(config: Unlearning) -> Record:
    """A run's record: read if there is one, else made and kept."""
    return run_store.read(directory(config)) or unlearn(config)[1]


def unlearn(config: Unlearning, mesh: Any = None, *, progress: bool = True) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run and keeps its record, `run.json`; goes on from its last checkpoint, and only reads it if it was the end.

    Returns:
      What the driver returned, and the record.

    Raises:
      ValueError: for a name that is not a method.
      FileNotFoundError: if a model is missing, naming the command that makes it.
    """
    place, here = directory(config), case(problem(config), config.groups)
    return run_store.unlearn(config, place, here, steps=config.steps, mesh=mesh, progress=progress)


def build(config: Unlearning, subject: methods.Subject) -> methods.Built:
    """The method with its settings."""
    return run_store.build(config, subject)


def problem(config: Unlearning) -> Problem:
    """The part of the settings that runs share."""
    return run_store.part(config, Problem)


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
    subject = methods.Subject(loss, params, forget, methods.requests(groups), microbatch_size=AT_ONCE)
    return Case(subject, retain, splits, measured, made.split.sha256)
