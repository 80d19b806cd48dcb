"""Unlearning runs that are made once, stored in a directory each, and read again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hamu_jax
from experiments import methods
from experiments.data.text_files import read_json
from experiments.runs import logs
from experiments.runs.config import Method, flat
from experiments.runs.provenance import write_json
from experiments.runs.unlearning import Record, Scenario, run_forget, run_method
from hamu_jax import report

LATER = ("system_prompt", "date_string", "weight", "level", "evaluate_every")


def deciding(settings: Any) -> Record:
    """The settings that decide a run's result: those of its problem and of its method."""
    values = flat(settings.problem) | flat(settings.method)
    if "validation" in values:  # of images: the number, not that it is the default
        values["validation"] = settings.problem.held_out
    return without_later(values)


def without_later(values: Record) -> Record:
    """The settings without those of later versions that are not used: runs and models of earlier versions are found."""
    return {name: value for name, value in values.items() if value is not None or name not in LATER}


def digest(values: Record) -> str:
    """Eight hexadecimal digits that tell settings apart."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def run_directory(settings: Any, problem: str) -> Path:
    """Where a run is stored: its main settings, and a hash of all that decide it.

    Args:
      settings: of the run.
      problem: the part of the name that is about the problem.

    Raises:
      ValueError: for a name that is not a method, or a call of `hamu_jax.forget` without a level.
    """
    method = settings.method
    if method.method in methods.FORGET_CALLS:
        if method.level is None:
            raise ValueError(f"level: got None for {method.method}, expected the loss at which the forget set is forgotten")
        chosen = ""
    elif method.method in methods.METHODS:
        promise = f"-q{method.improvement:g}" if methods.METHODS[method.method].promises else ""
        chosen = f"-lr{method.learning_rate:g}{promise}"
    else:
        names = ", ".join((*methods.METHODS, *methods.FORGET_CALLS))
        raise ValueError(f"method: got {method.method!r}, expected one of {names}")
    return settings.out / "runs" / f"{method.method}-{problem}{chosen}-seed{method.seed}-{digest(deciding(settings))}"


def read_run(directory: Path) -> Record | None:
    """A run's record, if the run is complete.

    Raises:
      ValueError: naming the file, for a record that is cut off.
    """
    path = directory / "run.json"
    return _read(path) if path.exists() else None


def measured_once(path: Path, measure: Callable[[], Record]) -> Record:
    """The content of a JSON file, which is written with what `measure` returns if it is missing."""
    if not path.exists():
        report.write_whole(path, json.dumps(measure(), indent=1, allow_nan=False) + "\n")
    return _read(path)


def _read(path: Path) -> Record:
    """A JSON file of ours.

    Raises:
      ValueError: naming the file, for one that is cut off or otherwise broken.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; once this file is deleted, it is made again") from error


def method_of(settings: Method, subject: methods.Subject) -> methods.Built:
    """The method with its settings."""
    method = methods.METHODS[settings.method]
    options = {"blocks": settings.blocks, "distribution": settings.distribution}
    return methods.build_method(
        method,
        subject,
        learning_rate=settings.learning_rate,
        improvement=settings.improvement if method.promises else 0.0,
        weight=settings.weight,
        clip_norm=settings.clip_norm,
        infeasible=settings.infeasible,
        base=settings.base,
        radius=settings.radius,
        **{name: value for name, value in options.items() if value is not None},
    )


def run_and_store(
    settings: Any, directory: Path, scenario: Scenario, *, steps: int | None = None, mesh: Any = None
) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run and stores its record, `run.json`; resumes from its last checkpoint, and only reads a complete run.

    Args:
      settings: of the run.
      directory: where it is stored.
      scenario: model and data.
      steps: at most. Default: the method's.
      mesh: of devices.

    Returns:
      What the driver returned, and the record.

    Raises:
      ImportError: see `logs.check`.
    """
    method = settings.method
    logs.check(settings.logging)
    steps = method.steps if steps is None else steps
    checkpoints = hamu_jax.Checkpoints(directory / "checkpoints", every=method.checkpoint_every or steps, keep=1)
    options: dict[str, Any] = {
        "steps": steps,
        "batch_size": method.batch_size,
        "microbatch_size": method.microbatch_size,
        "seed": method.seed,
        "checkpoints": checkpoints if method.checkpoint_every else None,
        "mesh": mesh,
    }
    if method.method in methods.FORGET_CALLS:
        result, numbers = run_forget(scenario, methods.FORGET_CALLS[method.method], level=method.level, **options)
    else:
        result, numbers = run_method(
            scenario,
            method_of(method, scenario.subject),
            evaluate_every=method.evaluate_every or -(-steps // method.evaluations),
            level=method.level,
            stopping=hamu_jax.Stopping(method.stop_unavoidable, method.stop_criterion, method.stop_infeasible),
            measure_every=method.measure_every,
            **options,
        )
    record = {
        "made": deciding(settings),
        "split": scenario.split,
        "environment": report.environment(),
        "models": scenario.models,
        "reason": result.reason,
        **numbers,
    }
    if read_run(directory) is None:
        write_json(directory / "run.json", record)
    return result, record


def log_run(settings: Any, directory: Path, result: hamu_jax.Unlearned, record: Record) -> str:
    """Writes every step's numbers, as JSON lines and to the logs that are asked for; returns the command's text."""
    result.history.write(directory / "history.jsonl")
    logs.write(result.history, directory, deciding(settings), settings.logging)
    end = f"{record['status']} after {record['steps']} steps: {record['reason']}"
    return models_table(all_models(record)) + f"\n{end}\nThe run is in {directory}/\n"


def all_models(record: Record) -> dict[str, Record]:
    """The measurements of every model of a run."""
    return {**record["models"], "unlearned": record["measured"]}


def models_table(models: Mapping[str, Record], columns: tuple[str, ...] | None = None) -> str:
    """A table with a column per model and a row per number."""
    columns = columns or tuple(next(iter(models.values())))

    def cell(value: float | None) -> str | None:
        return None if value is None else f"{value:.4f}"

    rows = [[column, *(cell(numbers.get(column)) for numbers in models.values())] for column in columns]
    return report.table(["", *models], rows) + "\n"
