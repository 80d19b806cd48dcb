"""One unlearning run, as every comparison makes it: the driver on a case, and what is measured of what it returns."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

import hamu_jax
from experiments import methods
from hamu_jax import metrics, objectives

Record: TypeAlias = dict[str, Any]
WATCHED = ("validation retain", "validation forget", "test retain", "test forget")


@dataclasses.dataclass(frozen=True)
class Case:
    """What all runs on one model share.

    Attributes:
      subject: the model that is to forget.
      retain: the retain set, as `methods.prepare` made it.
      splits: what is evaluated: `retain`, `forget` and those of `WATCHED`, with the retrained model's logits as `retrained`.
      models: what the full and the retrained model measure.
      split: a hash of what is to be forgotten, where the split can be told by one.
      watched: which of the splits are evaluated on the way.
      wanted: metrics of what is evaluated on the way, `accuracy` among them. Default: those of `measure`.
      measured: `measured(params)`, what is measured of a model at the end. Default: `measure`.
      evaluated_at_once: examples.
    """

    subject: methods.Subject
    retain: Any
    splits: dict[str, Any]
    models: dict[str, Record]
    split: str = ""
    watched: tuple[str, ...] = WATCHED
    wanted: Mapping[str, metrics.Metric] | None = None
    measured: Callable[[Any], Record] | None = None
    evaluated_at_once: int = 1024


def run(case: Case, built: methods.Built, *, steps: int, evaluations: int, **options: Any) -> tuple[hamu_jax.Unlearned, Record]:
    """Unlearns.

    Args:
      case: model and data.
      built: the method.
      steps: at most.
      evaluations: on the way, for Pareto pictures.
      **options: further arguments of `hamu_jax.unlearn`.

    Returns:
      What the driver returns; and what a table needs of it: how it ended, what the model measures, accuracies on the way.
    """
    loss = case.subject.loss
    evaluation = hamu_jax.Evaluation(
        {name: case.splits[name] for name in case.watched},
        _wanted(loss) if case.wanted is None else case.wanted,
        every=-(-steps // evaluations),
        batch_size=case.evaluated_at_once,
    )
    result = hamu_jax.unlearn(
        built.loss,
        case.subject.params,
        case.retain,
        case.subject.forget,
        built.optimizer,
        steps=steps,
        evaluation=evaluation,
        **built.options,
        **options,
    )
    way = {name: result.history.measured(f"{name}/accuracy") for name in case.watched}
    params = result.params
    return result, {
        "status": result.status,
        "steps": result.steps,
        "measured": measure(loss, params, case.splits) if case.measured is None else case.measured(params),
        "way": {name: {"step": steps.tolist(), "accuracy": values.tolist()} for name, (steps, values) in way.items()},
    }


def measure(loss: objectives.CrossEntropy, params: Any, splits: dict[str, Any]) -> dict[str, float | None]:
    """Loss, accuracy, divergence from and agreement with the retrained model on every split; membership inference."""
    found = hamu_jax.evaluate(loss, params, splits, _wanted(loss))
    forgotten, *unseen = (metrics.values(loss, params, splits[name]) for name in ("forget", "validation forget", "test forget"))
    for split, losses in zip(("validation", "test"), unseen, strict=True):
        # Not finite: a model so broken that its losses overflow. It has no rank statistic.
        whole = np.isfinite(forgotten).all() and np.isfinite(losses).all()
        found[f"{split} membership"] = metrics.auc(forgotten, losses) if whole else float("nan")
    return {key: value if np.isfinite(value) else None for key, value in found.items()}


def _wanted(loss: objectives.CrossEntropy) -> dict[str, metrics.Metric]:
    """The metrics, the same on the way and at the end: one compiled program serves both."""
    return {
        "accuracy": metrics.accuracy(loss.apply),
        "kl": metrics.kl_divergence(loss.apply, "retrained"),
        "agreement": metrics.agreement(loss.apply, "retrained"),
    }
