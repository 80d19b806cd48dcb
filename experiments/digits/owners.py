"""Twenty people ask at once that their digits be forgotten: a promise to their average, or one to each of them.

Trains a small convolutional network on digits of which twenty owners hold ten each, and makes it forget these twice, until
the mean loss of all owners' digits is the same: with one constraint on the mean (HAMU-Q), and with one for every owner
(`rules.projected`). Writes what each owner was promised and what each got, and what either cost everybody else. The
settings are the better of two that were tried with seed 0.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import hamu_jax
from experiments.digits.config import Owners
from experiments.digits.task import Task, build_task
from experiments.runs.provenance import settings_record, write_results
from hamu_jax import report

METHODS = ("mean", "every owner")
COLUMNS = ("retain/accuracy", "retain/loss", "test/accuracy", "test/loss")


@dataclasses.dataclass(frozen=True)
class Request:
    """Data and model before anything is forgotten: `forget` has the array `owner`, a number per example."""

    task: Task
    params: Any
    retain: dict[str, np.ndarray]
    forget: dict[str, np.ndarray]
    groups: hamu_jax.Groups


def compare_promises(settings: Owners, mesh: Any = None) -> Path:
    """Runs it; returns the path of the text."""
    request = _request(settings)
    retrained = request.task.train(request.retain, settings.epochs, "retrained")
    first_step = {method: _one_step(request, method, settings) for method in METHODS}
    runs = {method: _run(request, method, settings, mesh) for method in METHODS}
    params = {"full": request.params, **{method: run.params for method, run in runs.items()}, "retrained": retrained}
    models = {name: _evaluate(request, values) for name, values in params.items()}
    numbers = {
        "first_step": first_step,
        "models": models,
        "runs": {method: {"steps": run.steps, "reason": run.reason} for method, run in runs.items()},
    }
    sections = [
        "# Twenty owners: a promise to the mean, or to each",
        _models_table(models, {method: run.steps for method, run in runs.items()}),
        "The first step, over the owners:",
        _promises_table(first_step),
        "![Promised and measured, and the losses at the end](owners.png)",
    ]
    record = settings_record("digits", settings)
    return write_results(settings.out, "owners", record, numbers, sections=sections, figure=_picture(first_step, models))


def _request(settings: Owners) -> Request:
    """Trains the full model, and gives `owners` people `held` of its training images each, at random."""
    task = build_task(0, settings.seed)
    examples = task.split.train
    rows = np.random.default_rng(settings.seed).permutation(len(examples["label"]))
    owned, others = np.split(rows, [settings.owners * settings.held])
    forget = {key: value[owned] for key, value in examples.items()}
    forget["owner"] = np.repeat(np.arange(settings.owners), settings.held)
    retain = {key: value[others] for key, value in examples.items()}
    groups = hamu_jax.Groups(lambda batch: batch["owner"], settings.owners)
    return Request(task, task.train(examples, settings.epochs, "full"), retain, forget, groups)


def _optimizer(method: str, settings: Owners) -> Any:
    """Whole-model steps of at most the learning rate's length, on gradients clipped to norm 1."""
    many = {"forget_axis": 0, "num_requests": settings.owners} if method == METHODS[1] else {}
    options = {"blocks": "global", "distribution": "relative", "radius": 1.0, "clip_norm": 1.0}
    return hamu_jax.hamu(settings.learning_rate, settings.improvement, **options, **many)


def _one_step(request: Request, method: str, settings: Owners) -> dict[str, list[float]]:
    """The promised and the measured rise of every owner's loss at the first step."""
    groups = request.groups if method == METHODS[1] else None
    optimizer = _optimizer(method, settings)
    _, grads = hamu_jax.paired_value_and_grad(request.task.loss, forget_groups=groups)(
        request.params, request.retain, request.forget
    )
    updates, _ = optimizer.update(grads.retain, optimizer.init(request.params), request.params, forget_grads=grads.forget)
    change = hamu_jax.directional(request.task.loss, request.params, request.forget, updates)
    promised = np.asarray(change).reshape(settings.owners, settings.held).mean(axis=1)
    after = jax.tree.map(lambda p, u: p + u, request.params, updates)
    rise = np.asarray(request.task.loss(after, request.forget)) - np.asarray(request.task.loss(request.params, request.forget))
    measured = rise.reshape(settings.owners, settings.held).mean(axis=1)
    return {"promised": promised.tolist(), "measured": measured.tolist()}


def _run(request: Request, method: str, settings: Owners, mesh: Any) -> hamu_jax.Unlearned:
    """Unlearns until the mean loss over the owners' images is at its target."""
    everything = settings.owners * settings.held
    return hamu_jax.unlearn(
        request.task.loss,
        request.params,
        request.retain,
        request.forget,
        _optimizer(method, settings),
        steps=settings.steps,
        batch_size=(everything, everything),
        seed=settings.seed,
        stopping=hamu_jax.Stopping(targets=(hamu_jax.Target("forget_loss", at_least=settings.target),)),
        forget_groups=request.groups if method == METHODS[1] else None,
        mesh=mesh,
    )


def _evaluate(request: Request, params: Any) -> dict[str, Any]:
    """Losses and accuracies on every split, and every owner's loss."""
    task = request.task
    splits = {"retain": request.retain, "validation": task.split.validation, "test": task.split.test, "forget": request.forget}
    values = hamu_jax.evaluate(task.loss, params, splits, {"accuracy": task.metrics["accuracy"]})
    losses = np.asarray(task.loss(params, request.forget)).reshape(request.groups.count, -1).mean(axis=1)
    return {**values, "owners": losses.tolist()}


def _picture(step: dict[str, dict[str, list[float]]], models: dict[str, dict[str, Any]]) -> Figure:
    """Each owner's promise and rise at the first step, and each owner's loss at the end."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    first, last = figure.subplots(1, 2)
    for method, color in zip(METHODS, ("#0072b2", "#d55e00"), strict=True):
        label = f"a promise to {'the ' if method == METHODS[0] else ''}{method}"
        first.scatter(step[method]["promised"], step[method]["measured"], color=color, s=22, label=label, zorder=3)
    first.axhline(0, color="#767676", linewidth=0.8)
    first.axvline(0, color="#767676", linewidth=0.8)
    first.set_xscale("symlog", linthresh=1e-5)
    first.set_yscale("symlog", linthresh=1e-5)
    first.set_xlabel("promised rise of an owner's loss, first step")
    first.set_ylabel("measured rise")
    first.legend()
    names = ("full", *METHODS, "retrained")
    last.boxplot([models[name]["owners"] for name in names], tick_labels=names, whis=(0, 100))
    for position, name in enumerate(names, start=1):
        losses = models[name]["owners"]
        last.scatter(np.full(len(losses), position), losses, color="black", s=10, alpha=0.5, zorder=3)
    last.set_yscale("log")
    last.set_ylabel("loss on an owner's images, at the end")
    for axes in (first, last):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _models_table(models: dict[str, dict[str, Any]], steps: dict[str, int]) -> str:
    """The losses of the owners and the numbers of everybody else, a row per model."""
    header = ["model", "steps", "owners' loss: least", "median", "most", *COLUMNS]
    rows = []
    for name, values in models.items():
        losses = np.array(values["owners"])
        shown = (losses.min(), np.median(losses), losses.max(), *(values[column] for column in COLUMNS))
        rows.append([name, str(steps.get(name, "")), *(f"{number:.3f}" for number in shown)])
    return report.table(header, rows)


def _promises_table(first_step: dict[str, dict[str, list[float]]]) -> str:
    """The first step, a row per method."""
    rows = []
    for method, values in first_step.items():
        promised, measured = np.array(values["promised"]), np.array(values["measured"])
        rows.append([method, f"{promised.min():.2e}", f"{measured.min():.2e}", str(int(np.sum(promised <= 0)))])
    return report.table(["promise to the", "least promised", "least measured", "owners promised nothing"], rows)
