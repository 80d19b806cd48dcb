"""Unlearning runs on language models: made once, stored with their adapters, and read again."""

import functools
from pathlib import Path
from typing import Any

import jax

import hamu_jax
from experiments import methods
from experiments.language import measures, models, question_splits
from experiments.language.config import Method, Unlearning
from experiments.language.task import Task, build_task
from experiments.models import lora
from experiments.models.frozen import Frozen
from experiments.runs import run_store
from experiments.runs.unlearning import Record, Scenario
from hamu_jax import metrics, objectives


def directory(settings: Unlearning) -> Path:
    """Where a run is stored: its main settings, and a hash of all that decide it.

    Raises:
      ValueError: for a name that is not a method.
    """
    return run_store.run_directory(settings, models.data_name(settings.problem))


def unlearn_questions(settings: Unlearning, mesh: Any = None) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run, stores its record and its adapter; resumes from its last checkpoint, and only reads a complete run.

    The adapter of a run whose losses are not finite is not stored.

    Returns:
      What the driver returned, and the record.

    Raises:
      ValueError: for a name that is not a method, or a run in the same directory that had other questions.
      FileNotFoundError: if a model is missing, naming the command that makes it.
    """
    run_directory, task = directory(settings), build_task(settings, mesh)
    _check(run_directory, task)
    scenario = load_scenario(settings, mesh)
    steps = number_of_steps(settings.method, task)
    result, record = run_store.run_and_store(settings, run_directory, scenario, steps=steps, mesh=mesh)
    if is_finite(record):
        models.save_adapter(task, run_directory, result.params)
    return result, record


def is_finite(record: Record) -> bool:
    """Whether a run ended with numbers: of one that did not there is no adapter."""
    return record["status"] != "nonfinite" and None not in record["measured"].values()


def check_finite(record: Record, run_directory: Path) -> None:
    """Checks that a run ended with numbers.

    Raises:
      RuntimeError: if it did not, so that the command fails.
    """
    if not is_finite(record):
        raise RuntimeError(
            f"the run in {run_directory} ended after {record['steps']} steps with losses that are not finite "
            f"({record['reason']}): its adapter is not stored; take a lower learning rate"
        )


def run_record(settings: Unlearning, mesh: Any = None) -> Record:
    """A run's record; the run is made if it or its adapter is missing.

    Raises:
      ValueError, FileNotFoundError: as `unlearn_questions`.
    """
    run_directory = directory(settings)
    _check(run_directory, build_task(settings, mesh))
    record = run_store.read_run(run_directory)
    if record is not None and ((run_directory / models.ADAPTER).exists() or not is_finite(record)):
        return record
    return unlearn_questions(settings, mesh)[1]


def all_measured(settings: Unlearning, mesh: Any = None) -> dict[str, Record]:
    """All numbers of the full, the retrained and the unlearned model.

    Raises:
      RuntimeError: for a run whose losses are not finite.
    """
    check_finite(run_record(settings, mesh), directory(settings))
    task = build_task(settings, mesh)
    retrained = models.measure(task, models.model_directory(task, "retrained"))
    # Forget quality compares a model's truth ratios with the retrained model's.
    full, unlearned = (
        models.measure(task, path, retrained["ratios"])["numbers"]
        for path in (models.model_directory(task, "full"), directory(settings))
    )
    return {"full": full, "retrained": retrained["numbers"], "unlearned": unlearned}


def number_of_steps(method: Method, task: Task) -> int:
    """The largest number of steps of a run."""
    if method.steps is not None:
        return method.steps
    size = len(task.parts.retain) + len(task.parts.duplicates)
    return method.epochs * -(-size // min(method.batch_size, size))


def level(settings: Unlearning, mesh: Any = None) -> float:
    """The loss at which the forget set counts as forgotten: the full model's on questions about unseen persons.

    Raises:
      ValueError: if there are no such questions.
    """
    task = build_task(settings, mesh)
    if "unseen" not in task.evaluated:
        raise ValueError(
            f"unseen: got {settings.problem.unseen}, expected questions that were never trained on: they say the level"
        )
    asked = task.evaluated["unseen"]
    return measures.means("unseen", task.numbers(models.load(task, "full"), asked))["unseen/loss"]


def load_scenario(settings: Unlearning, mesh: Any = None) -> Scenario:
    """Questions and models, with the arrays that methods and metrics read; the last scenario is kept."""
    return _scenario(build_task(settings, mesh), settings.method.groups, settings.method.microbatch_size, mesh)


@functools.lru_cache(maxsize=1)
def _scenario(task: Task, groups: int, microbatch_size: int | None, mesh: Any) -> Scenario:
    """Reads and prepares them."""
    original = models.load(task, "full")
    validation = {kind: models.validation(task, kind) for kind in models.COMMANDS}
    teacher = Frozen(original, mesh=mesh)
    whole = methods.whole_loss(task.loss)
    forget = task.arrays(task.parts.forget)
    number, count = question_splits.requests(task.parts.forget, groups)
    labels = objectives.random_labels(forget["label"], task.base.network.config.vocabulary, seed=task.problem.training.seed)
    losses = metrics.values(whole, original, forget, batch_size=task.evaluation.evaluation_batch)
    subject = methods.Subject(
        task.loss,
        original,
        {**forget, "random": labels, "group": number, "original_loss": losses},
        methods.requests(count),
        teacher=lambda batch: task.apply(teacher(), batch),
        original_loss=_original_loss,
        tensors=lora.blocks,
        microbatch_size=microbatch_size,
    )
    return Scenario(
        subject,
        task.arrays((*task.parts.retain, *task.parts.duplicates)),
        {name: task.arrays(asked) for name, asked in task.watched.items()} | {"forget": forget},
        validation,
        task.parts.sha256,
        watched=measures.VALIDATION,
        watched_metrics={"accuracy": metrics.accuracy(task.apply)},
        measure=lambda adapter: measures.validation(task, adapter),
        evaluated_at_once=task.evaluation.evaluation_batch,
    )


def _original_loss(batch: Any) -> jax.Array:
    """The original model's loss of each answer, which `_scenario` stored."""
    return batch["original_loss"]


def _check(run_directory: Path, task: Task) -> None:
    """Checks that the run in a directory had these questions."""
    record = run_store.read_run(run_directory)
    if record is not None and record["split"] != task.parts.sha256:
        raise ValueError(f"data: got other questions than the run in {run_directory} had: use another --out")
