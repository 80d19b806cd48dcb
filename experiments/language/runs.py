"""Unlearning runs on language models: made once, kept with their adapters, and read again."""

import functools
from pathlib import Path
from typing import Any

import jax

import hamu_jax
from experiments.runs import run_store
from experiments import methods
from experiments.language import measures, models, question_splits, task
from experiments.language.config import Problem, Unlearning
from experiments.language.task import Task
from experiments.models import lora
from experiments.models.frozen import Frozen
from experiments.runs.unlearning import Case, Record
from hamu_jax import metrics, objectives


def directory(config: Unlearning) -> Path:
    """Where a run is kept: its main settings, and a hash of all.

    Raises:
      ValueError: for a name that is not a method.
    """
    return run_store.directory(config, config.out, models.data_name(config))


def unlearn(config: Unlearning, mesh: Any = None, *, progress: bool = True) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run and keeps its record and its adapter; goes on from its last checkpoint, and only reads it if it was the end.

    Returns:
      What the driver returned, and the record.

    Raises:
      ValueError: for a name that is not a method, or a run that is kept there and had other questions.
      FileNotFoundError: if a model is missing, naming the command that makes it.
    """
    place, made = directory(config), task.build(run_store.part(config, Problem), mesh)
    _check(place, made)
    here = case(made, config.groups, config.microbatch_size, mesh)
    result, record = run_store.unlearn(config, place, here, steps=steps(config, made), mesh=mesh, progress=progress)
    models.keep(made, place, result.params)
    return result, record


def ensure(config: Unlearning, mesh: Any = None) -> Record:
    """A run's record: read if there is one, else made and kept.

    Raises:
      ValueError, FileNotFoundError: as `unlearn`.
    """
    place = directory(config)
    _check(place, task.build(run_store.part(config, Problem), mesh))
    record = run_store.read(place) if (place / models.ADAPTER).exists() else None
    return record or unlearn(config, mesh)[1]


def measured(config: Unlearning, mesh: Any = None) -> dict[str, Record]:
    """All that is measured of the full, the retrained and the unlearned model."""
    ensure(config, mesh)
    made = task.build(run_store.part(config, Problem), mesh)
    retrained = models.measure(made, models.directory(made, "retrained"))
    places = {"full": models.directory(made, "full"), "unlearned": directory(config)}
    others = {name: _compared(made, place, retrained) for name, place in places.items()}
    return {"full": others["full"], "retrained": retrained["numbers"], "unlearned": others["unlearned"]}


def steps(config: Unlearning, made: Task) -> int:
    """How many steps a run has."""
    if config.steps is not None:
        return config.steps
    size = len(made.parts.retain) + len(made.parts.duplicates)
    return config.epochs * -(-size // min(config.batch_size, size))


@functools.lru_cache(maxsize=1)
def case(made: Task, groups: int, microbatch_size: int | None, mesh: Any = None) -> Case:
    """Questions and models, and what methods and metrics ask of them."""
    original = models.load(made, "full")
    kinds = {kind: models.validation(made, kind) for kind in models.COMMANDS}
    held = Frozen(original, mesh=mesh)
    whole = methods.whole_loss(made.loss)
    forget = made.arrays(made.parts.forget)
    number, count = question_splits.requests(made.parts.forget, groups)
    labels = objectives.random_labels(forget["label"], made.base.network.config.vocabulary, seed=made.config.training.seed)
    losses = metrics.values(whole, original, forget, batch_size=made.config.evaluation_batch)
    subject = methods.Subject(
        made.loss,
        original,
        {**forget, "random": labels, "group": number, "original_loss": losses},
        methods.requests(count),
        teacher=lambda batch: made.apply(held(), batch),
        original_loss=_original_loss,
        tensors=lora.blocks,
        microbatch_size=microbatch_size,
    )
    return Case(
        subject,
        made.arrays((*made.parts.retain, *made.parts.duplicates)),
        {name: made.arrays(made.evaluated[name]) for name in measures.VALIDATION},
        kinds,
        made.parts.sha256,
        watched=measures.VALIDATION,
        wanted={"accuracy": metrics.accuracy(made.apply)},
        measured=lambda adapter: measures.validation(made, adapter),
        evaluated_at_once=made.config.evaluation_batch,
    )


def _compared(made: Task, place: Path, retrained: Record) -> Record:
    """The numbers of a model, its forget quality that beside the retrained one."""
    return models.measure(made, place, retrained["ratios"])["numbers"]


def _original_loss(batch: Any) -> jax.Array:
    """The original model's loss of each answer, which `case` stored."""
    return batch["original_loss"]


def _check(place: Path, made: Task) -> None:
    """Checks that the run that is kept somewhere had these questions."""
    record = run_store.read(place)
    if record is not None and record["split"] != made.parts.sha256:
        raise ValueError(f"data: got other questions than the run in {place} had: use another --out")
