"""Unlearning runs that are made once, kept in a directory of their own, and read again."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import hamu_jax
from experiments.runs import logs, unlearning
from experiments import methods
from experiments.runs.config import RunConfig
from experiments.runs.unlearning import Case, Record
from hamu_jax import report

T = TypeVar("T")

# Settings that don't decide a result: where things are, how they are computed, and, of language models, what is measured after.
ELSEWHERE = ("out", "data_dir", "download", "devices", "mesh", "distributed", "tensorboard", "wandb")
MEASURING = ("questions", "max_new_tokens", "evaluation_batch", "buckets", "gradient_checkpointing", "assessed", "samples")


def part(config: Any, kind: type[T]) -> T:
    """The settings that are those of a class above."""
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, kind))})


def made(config: Any) -> Record:
    """The settings that decide a result."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in ELSEWHERE + MEASURING}


def digest(settings: Record) -> str:
    """Eight hexadecimal digits that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def directory(config: RunConfig, out: Path, problem: str) -> Path:
    """Where a run is kept: its main settings, and a hash of all. `problem` is the part of the name about the problem.

    Raises:
      ValueError: for a name that is not a method.
    """
    if config.method not in methods.METHODS:
        raise ValueError(f"method: got {config.method!r}, expected one of {', '.join(methods.METHODS)}")
    promise = f"-q{config.improvement:g}" if methods.METHODS[config.method].promises else ""
    name = f"{config.method}-{problem}-lr{config.learning_rate:g}{promise}-seed{config.seed}-{digest(made(config))}"
    return out / "runs" / name


def read(place: Path) -> Record | None:
    """A run's record, if it was made."""
    path = place / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kept(path: Path, make: Callable[[], Record]) -> Record:
    """What is in a JSON file: read if it is there, else made and written."""
    if not path.exists():
        report.write_whole(path, json.dumps(make(), indent=1, allow_nan=False) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def build(config: RunConfig, subject: methods.Subject) -> methods.Built:
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


def unlearn(
    config: RunConfig, place: Path, case: Case, *, steps: int, mesh: Any = None, progress: bool = True
) -> tuple[hamu_jax.Unlearned, Record]:
    """Makes a run and keeps its record, `run.json`; goes on from its last checkpoint, and only reads it if it was the end.

    Returns:
      What the driver returned, and the record.

    Raises:
      ImportError: see `logs.check`.
    """
    logs.check(tensorboard=config.tensorboard, wandb=config.wandb)
    result, record = unlearning.run(
        case,
        build(config, case.subject),
        steps=steps,
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
        "split": case.split,
        "environment": report.environment(),
        "models": case.models,
        "reason": result.reason,
        **record,
    }
    if read(place) is None:
        report.write_whole(place / "run.json", json.dumps(record, indent=1) + "\n")
    return result, record


def log_and_tell(config: RunConfig, place: Path, result: hamu_jax.Unlearned, record: Record) -> str:
    """Keeps every step's numbers, as JSON lines and elsewhere if that is asked for; what the command has to say."""
    result.history.write(place / "history.jsonl")
    logs.write(result.history, place, made(config), tensorboard=config.tensorboard, wandb=config.wandb)
    after = f"{record['status']} after {record['steps']} steps: {record['reason']}"
    return table(all_models(record)) + f"\n{after}\nThe run is in {place}/\n"


def all_models(record: Record) -> dict[str, Record]:
    """What every model of a run measures."""
    return {**record["models"], "unlearned": record["measured"]}


def table(rows: Mapping[str, Record], columns: tuple[str, ...] | None = None) -> str:
    """Numbers by model."""
    columns = columns or tuple(next(iter(rows.values())))
    lines = ["| | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for column in columns:
        values = ("" if row.get(column) is None else f"{row[column]:.4f}" for row in rows.values())
        lines.append(f"| {column} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"
