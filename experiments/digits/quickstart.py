"""The quickstart: one digit is forgotten with HAMU-Q, and a report compares the full, the unlearned and the retrained model."""

from pathlib import Path
from typing import Any

import hamu_jax
from experiments.digits.config import Quickstart
from experiments.digits.task import Task, build_task
from experiments.runs.provenance import conclusion, settings_record
from hamu_jax import report

ORDER = ("full", "unlearned", "retrained")
Tables = dict[str, dict[str, dict[str, float]]]


def run_quickstart(settings: Quickstart, mesh: Any = None) -> Path:
    """Runs it; returns the path of the report."""
    task = build_task(settings.forget_class, settings.seed)
    retain, forget = task.parts["train"]
    models = {
        "full": task.train(task.split.train, settings.epochs, "full"),
        "retrained": task.train(retain, settings.epochs, "retrained"),
    }
    result = _unlearn(task, models["full"], settings, mesh)
    models["unlearned"] = result.params
    _, grads = hamu_jax.paired_value_and_grad(task.loss)(models["full"], retain, forget)
    curve = hamu_jax.trade_off(grads.retain, grads.forget, blocks="global")
    splits = {"shown": task.named_splits("train", "test"), "along": task.named_splits("validation")}
    accuracy = {"accuracy": task.metrics["accuracy"]}
    tables = {
        kind: {name: hamu_jax.evaluate(task.loss, models[name], wanted, accuracy) for name in ORDER}
        for kind, wanted in splits.items()
    }
    return _report(settings, result, tables, curve)


def _unlearn(task: Task, params: Any, settings: Quickstart, mesh: Any) -> hamu_jax.Unlearned:
    """HAMU-Q, until the forgotten class is no longer recognised on validation images."""
    forgotten = hamu_jax.Target("validation forget/probability", at_most=settings.forgotten_at)
    return hamu_jax.unlearn(
        task.loss,
        params,
        *task.parts["train"],
        hamu_jax.hamu(settings.learning_rate, settings.improvement, distribution="relative"),
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        evaluation=hamu_jax.Evaluation(task.named_splits("validation"), task.metrics, every=5),
        stopping=hamu_jax.Stopping(targets=(forgotten,)),
        measure_every=1,
        mesh=mesh,
    )


def _report(settings: Quickstart, result: hamu_jax.Unlearned, tables: Tables, curve: hamu_jax.TradeOff) -> Path:
    """Writes the report."""
    watched = {"kept classes": "validation retain/accuracy", "forgotten class": "validation forget/accuracy"}
    return report.write(
        settings.out,
        result,
        title=f"Forgetting the digit {settings.forget_class}",
        models=tables["shown"],
        conclusion=conclusion(result, tables["shown"]),
        settings=settings_record("quickstart", settings),
        watched=watched,
        reference={label: tables["along"]["retrained"][column] for label, column in watched.items()},
        curve=curve,
        learning_rate=settings.learning_rate,
    )
