"""Twenty people ask at once that their digits be forgotten: a promise to their average, or one to each of them.

    python -m experiments.owners [--out DIR]

Trains a small convolutional network on digits of which twenty owners hold ten each, and makes it forget these twice, until
the mean loss of all owners' digits is the same: with one constraint on the mean (HAMU-Q), and with one for every owner
(`rules.projected`). Writes what each owner was promised and what each got, and what either cost everybody else. The
settings are the better of two that were tried with seed 0.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

import hamu_jax
from experiments.digits import task as digits_task
from experiments.runs.devices import OnDevices
from experiments.runs.provenance import settings
from hamu_jax import report

METHODS = ("mean", "every owner")


@dataclasses.dataclass(frozen=True)
class Config(OnDevices):
    """The experiment's settings.

    Attributes:
      out: where the results go.
      owners: how many people ask.
      held: how many training images each of them holds.
      seed: of the split, the owners, the initial weights and the order of examples.
      epochs: of training.
      steps: of unlearning, at most.
      target: the mean loss over all owners' images at which unlearning stops.
      learning_rate: of unlearning.
      improvement: the cosine that the step is asked to have with the mean gradient, or with every owner's.
    """

    out: Path = Path("owners-out")
    owners: int = 20
    held: int = 10
    seed: int = 0
    epochs: int = 25
    steps: int = 200
    target: float = 1.0
    learning_rate: float = 0.05
    improvement: float = 0.1


@dataclasses.dataclass(frozen=True)
class Request:
    """Data and model before anything is forgotten: `forget` holds `owner`, a number an example."""

    task: digits_task.Task
    params: Any
    retain: dict[str, np.ndarray]
    forget: dict[str, np.ndarray]
    groups: hamu_jax.Groups


def main(config: Config) -> Path:
    """Runs it; returns the path of the text."""
    config, mesh = config.placed()
    request = _request(config)
    retrained = request.task.train(request.retain, config.epochs, "retrained")
    step = {method: _one_step(request, method, config) for method in METHODS}
    runs = {method: _run(request, method, config, mesh) for method in METHODS}
    models = {"full": request.params, **{method: run.params for method, run in runs.items()}, "retrained": retrained}
    table = {name: _evaluate(request, params) for name, params in models.items()}
    made = settings("owners", config)
    record = {"settings": made, "environment": report.environment(), "first_step": step, "models": table}
    record["runs"] = {method: {"steps": run.steps, "reason": run.reason} for method, run in runs.items()}
    report.write_whole(config.out / "owners.json", json.dumps(record, indent=1) + "\n")
    report.save_figure(_picture(step, table), config.out / "owners.png")
    report.write_whole(config.out / "owners.md", _markdown(record))
    return config.out / "owners.md"


def _request(config: Config) -> Request:
    """Trains the full model, and gives `owners` people `held` of its training images each, at random."""
    task = digits_task.build(0, config.seed)
    examples = task.split.train
    rows = np.random.default_rng(config.seed).permutation(len(examples["label"]))
    theirs, others = np.split(rows, [config.owners * config.held])
    forget = {key: value[theirs] for key, value in examples.items()}
    forget["owner"] = np.repeat(np.arange(config.owners), config.held)
    retain = {key: value[others] for key, value in examples.items()}
    groups = hamu_jax.Groups(lambda batch: batch["owner"], config.owners)
    return Request(task, task.train(examples, config.epochs, "full"), retain, forget, groups)


def _optimizer(method: str, config: Config) -> Any:
    """Whole-model steps of at most the learning rate's length, on gradients clipped to norm 1."""
    many = {"forget_axis": 0, "num_requests": config.owners} if method == METHODS[1] else {}
    options = {"blocks": "global", "distribution": "relative", "radius": 1.0, "clip_norm": 1.0}
    return hamu_jax.hamu(config.learning_rate, config.improvement, **options, **many)


def _one_step(request: Request, method: str, config: Config) -> dict[str, list[float]]:
    """What the first step promises every owner, and what it does."""
    groups = request.groups if method == METHODS[1] else None
    optimizer = _optimizer(method, config)
    _, grads = hamu_jax.paired_value_and_grad(request.task.loss, forget_groups=groups)(
        request.params, request.retain, request.forget
    )
    updates, _ = optimizer.update(grads.retain, optimizer.init(request.params), request.params, forget_grads=grads.forget)
    change = hamu_jax.directional(request.task.loss, request.params, request.forget, updates)
    promised = np.asarray(change).reshape(config.owners, config.held).mean(axis=1)
    after = jax.tree.map(lambda p, u: p + u, request.params, updates)
    rise = np.asarray(request.task.loss(after, request.forget)) - np.asarray(request.task.loss(request.params, request.forget))
    measured = rise.reshape(config.owners, config.held).mean(axis=1)
    return {"promised": promised.tolist(), "measured": measured.tolist()}


def _run(request: Request, method: str, config: Config, mesh: Any) -> hamu_jax.Unlearned:
    """Unlearns until the mean loss over the owners' images is at its target."""
    everything = config.owners * config.held
    return hamu_jax.unlearn(
        request.task.loss,
        request.params,
        request.retain,
        request.forget,
        _optimizer(method, config),
        steps=config.steps,
        batch_size=(everything, everything),
        seed=config.seed,
        stopping=hamu_jax.Stopping(targets=(hamu_jax.Target("forget_loss", at_least=config.target),)),
        forget_groups=request.groups if method == METHODS[1] else None,
        mesh=mesh,
    )


def _evaluate(request: Request, params: Any) -> dict[str, Any]:
    """Losses and accuracies on what is kept, and every owner's loss."""
    task = request.task
    splits = {"retain": request.retain, "validation": task.split.validation, "test": task.split.test, "forget": request.forget}
    values = hamu_jax.evaluate(task.loss, params, splits, {"accuracy": task.metrics["accuracy"]})
    losses = np.asarray(task.loss(params, request.forget)).reshape(request.groups.count, -1).mean(axis=1)
    return {**values, "owners": losses.tolist()}


def _picture(step: dict[str, dict[str, list[float]]], table: dict[str, dict[str, Any]]) -> Figure:
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
    last.boxplot([table[name]["owners"] for name in names], tick_labels=names, whis=(0, 100))
    for place, name in enumerate(names, start=1):
        last.scatter(
            np.full(len(table[name]["owners"]), place), table[name]["owners"], color="black", s=10, alpha=0.5, zorder=3
        )
    last.set_yscale("log")
    last.set_ylabel("loss on an owner's images, at the end")
    for axes in (first, last):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _markdown(record: dict[str, Any]) -> str:
    """The results' text."""
    lines = ["# Twenty owners: a promise to the mean, or to each", ""]
    columns = ("retain/accuracy", "retain/loss", "test/accuracy", "test/loss")
    lines += ["| model | steps | owners' loss: least | median | most | " + " | ".join(columns) + " |", "|---" * 9 + "|"]
    for name, values in record["models"].items():
        owners, steps = np.array(values["owners"]), record["runs"].get(name, {}).get("steps", "")
        kept = [f"{values[column]:.3f}" for column in columns]
        spread = [f"{x:.3f}" for x in (owners.min(), np.median(owners), owners.max())]
        lines.append(f"| {name} | " + " | ".join([str(steps), *spread, *kept]) + " |")
    lines += ["", "The first step, over the owners:", ""]
    lines += ["| promise to the | least promised | least measured | owners promised nothing |", "|---" * 4 + "|"]
    for method, values in record["first_step"].items():
        promised, measured = np.array(values["promised"]), np.array(values["measured"])
        lines.append(f"| {method} | {promised.min():.2e} | {measured.min():.2e} | {int(np.sum(promised <= 0))} |")
    lines += ["", "![Promised and measured, and the losses at the end](owners.png)", "", "## How it was made", ""]
    lines += [f"- {key}: `{value}`" for key, value in {**record["settings"], **record["environment"]}.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    written = main(tyro.cli(Config))
    sys.stdout.write(written.read_text(encoding="utf-8"))
    sys.stdout.write(f"\nThe results are in {written.parent}/\n")
