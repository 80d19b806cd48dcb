"""Unlearn one class of real handwritten digits, and write a report.

    python -m experiments.quickstart [--out DIR]

Trains a small convolutional network on scikit-learn's digits, trains it again without one class, makes the first one forget
that class with HAMU-Q, and compares the three. All settings were chosen on the validation split.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

import hamu_jax
from experiments.digits import task as digits_task
from experiments.data import digits
from experiments.runs.devices import OnDevices
from experiments.runs.provenance import conclusion, settings
from hamu_jax import report

Tables = dict[str, dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Config(OnDevices):
    """The quickstart's settings.

    Attributes:
      out: where the report goes.
      forget_class: the digit to forget.
      seed: of the split, the initial weights and the order of examples.
      epochs: of training.
      steps: of unlearning, at most.
      forgotten_at: stop when the model gives the forgotten class's validation images their true label with at most this
        probability, on average.
      batch_size: of unlearning, from either set.
      learning_rate: of unlearning.
      improvement: the cosine that each layer's step is asked to have with its forget gradient.
    """

    out: Path = Path("quickstart-out")
    forget_class: int = 3
    seed: int = 0
    epochs: int = 25
    steps: int = 300
    forgotten_at: float = 0.001
    batch_size: int = 128
    learning_rate: float = 0.1
    improvement: float = 0.5


def main(config: Config) -> Path:
    """Runs it; returns the path of the report."""
    config, mesh = config.placed()
    task = digits_task.build(config.forget_class, config.seed)
    parts, loss = task.parts, task.loss
    retain, forget = parts["train"]
    models = {
        "full": task.train(task.split.train, config.epochs, "full"),
        "retrained": task.train(retain, config.epochs, "retrained"),
    }
    result = _unlearn(task, models["full"], config, mesh)
    models["unlearned"] = result.params
    _, grads = hamu_jax.paired_value_and_grad(loss)(models["full"], retain, forget)
    curve = hamu_jax.trade_off(grads.retain, grads.forget, blocks="global")
    splits = {"shown": _splits(parts, "train", "test"), "along": _splits(parts, "validation")}
    order, shown = ("full", "unlearned", "retrained"), {"accuracy": task.metrics["accuracy"]}
    tables = {
        kind: {name: hamu_jax.evaluate(loss, models[name], wanted, shown) for name in order} for kind, wanted in splits.items()
    }
    return _report(config, result, tables, curve)


def _unlearn(task: digits_task.Task, params: Any, config: Config, mesh: Any) -> hamu_jax.Unlearned:
    """HAMU-Q, until the forgotten class is no longer recognised on validation images."""
    return hamu_jax.unlearn(
        task.loss,
        params,
        *task.parts["train"],
        hamu_jax.hamu(config.learning_rate, config.improvement, distribution="relative"),
        steps=config.steps,
        batch_size=config.batch_size,
        seed=config.seed,
        evaluation=hamu_jax.Evaluation(_splits(task.parts, "validation"), task.metrics, every=5),
        stopping=hamu_jax.Stopping(targets=(hamu_jax.Target("validation forget/probability", at_most=config.forgotten_at),)),
        measure_every=1,
        mesh=mesh,
    )


def _splits(parts: digits_task.Parts, *names: str) -> dict[str, digits.Examples]:
    """The retain and the forget part of the named splits."""
    return {f"{name} {kind}": part for name in names for kind, part in zip(("retain", "forget"), parts[name], strict=True)}


def _report(config: Config, result: hamu_jax.Unlearned, tables: Tables, curve: hamu_jax.TradeOff) -> Path:
    """Writes the report."""
    watched = {"kept classes": "validation retain/accuracy", "forgotten class": "validation forget/accuracy"}
    return report.write(
        config.out,
        result,
        title=f"Forgetting the digit {config.forget_class}",
        models=tables["shown"],
        conclusion=conclusion(result, tables["shown"]),
        settings=settings("quickstart", config),
        watched=watched,
        reference={label: tables["along"]["retrained"][column] for label, column in watched.items()},
        curve=curve,
        learning_rate=config.learning_rate,
    )


if __name__ == "__main__":
    written = main(tyro.cli(Config))
    sys.stdout.write(written.read_text(encoding="utf-8"))
    sys.stdout.write(f"\nThe report with its pictures is in {written.parent}/\n")
