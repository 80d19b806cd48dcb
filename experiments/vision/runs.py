"""Unlearning runs on images: made once, stored, and read again."""

import functools
import math
from pathlib import Path
from typing import Any

import hamu_jax
from experiments import methods
from experiments.data import images
from experiments.runs import run_store
from experiments.runs.config import part
from experiments.runs.unlearning import Record, Scenario, measure
from experiments.vision import models
from experiments.vision.config import ModelSettings, Unlearning
from experiments.vision.task import build_task, take

# Images whose gradient SalUn takes at once, of the whole forget set's. Of all 2,000 it took nine minutes to compile, and 9 GB.
AT_ONCE = 128


def directory(settings: Unlearning) -> Path:
    """Where a run is stored: its main settings, and a hash of all that decide it.

    Raises:
      ValueError: for a name that is not a method.
    """
    return run_store.run_directory(settings, f"rho{settings.problem.rho:g}")


def run_record(settings: Unlearning, mesh: Any = None) -> Record:
    """A run's record; the run is made if it is missing."""
    return run_store.read_run(directory(settings)) or unlearn_images(settings, mesh)[1]


def unlearn_images(settings: Unlearning, mesh: Any = None) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run and stores its record, `run.json`; resumes from its last checkpoint, and only reads a complete run.

    Returns:
      What the driver returned, and the record.

    Raises:
      ValueError: for a name that is not a method.
      FileNotFoundError: if a model is missing, naming the command that makes it.
    """
    return run_store.run_and_store(settings, directory(settings), load_scenario(settings), mesh=mesh)


def load_scenario(settings: Unlearning, mesh: Any = None) -> Scenario:
    """Images and models, with the arrays that methods and metrics read; the last scenario is kept."""
    del mesh  # data are placed when batches are made
    return _scenario(part(settings, ModelSettings), settings.method.groups)


def level(settings: Unlearning, mesh: Any = None) -> float:
    """The loss at which the forget set counts as forgotten: of a whole class chance, else the full model's on unseen images."""
    if settings.problem.rho == 0:
        return math.log(images.SOURCES[settings.problem.dataset].classes)
    return load_scenario(settings, mesh).models["full"]["validation forget/loss"]


@functools.lru_cache(maxsize=1)
def _scenario(settings: ModelSettings, groups: int) -> Scenario:
    """Reads and prepares them."""
    problem, task = settings.problem, build_task(settings.problem, settings.files)
    (params, statistics), (retrained_params, retrained_statistics) = (
        models.load(settings, task, kind) for kind in ("full", "retrained")
    )
    loss, retrained = task.loss(statistics), task.loss(retrained_statistics)
    classes = images.SOURCES[problem.dataset].classes
    prepare = functools.partial(methods.prepare, loss, params, classes=classes, groups=groups, seed=problem.split_seed)
    splits = {
        name: {**prepare(examples), "retrained": methods.logits(retrained.apply, retrained_params, examples)}
        for name, examples in task.splits.items()
    }
    retain, forget = (prepare(take(task.train, rows)) for rows in (task.split.retain, task.split.forget))
    measured = {"full": measure(loss, params, splits), "retrained": measure(retrained, retrained_params, splits)}
    subject = methods.Subject(loss, params, forget, methods.requests(groups), microbatch_size=AT_ONCE)
    return Scenario(subject, retain, splits, measured, task.split.sha256)
