"""One unlearning run: the driver on a scenario, and the measurements of the model that it returns."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import optax

import hamu_jax
from experiments import methods
from hamu_jax import metrics, objectives

Record: TypeAlias = dict[str, Any]
WATCHED = ("validation retain", "validation forget", "test retain", "test forget")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Model and data that all runs on one problem share.

    Attributes:
      subject: the model that is to forget.
      retain: the retain set, as `methods.prepare` made it.
      splits: what is evaluated: `retain`, `forget` and those of `WATCHED`, with the retrained model's logits as `retrained`.
      models: what the full and the retrained model measure.
      split: a hash of the forget set, where the split has one.
      watched: the splits that are evaluated during unlearning.
      watched_metrics: the metrics of these, `accuracy` among them. Default: those of `measure`.
      measure: `measure(params)`, the numbers of a model after unlearning. Default: `measure`.
      evaluated_at_once: examples.
    """

    subject: methods.Subject
    retain: Any
    splits: dict[str, Any]
    models: dict[str, Record]
    split: str = ""
    watched: tuple[str, ...] = WATCHED
    watched_metrics: Mapping[str, metrics.Metric] | None = None
    measure: Callable[[Any], Record] | None = None
    evaluated_at_once: int = 1024


def run_method(
    scenario: Scenario, built: methods.Built, *, steps: int, evaluations: int, **options: Any
) -> tuple[hamu_jax.Unlearned, Record]:
    """Unlearns.

    Args:
      scenario: model and data.
      built: the method.
      steps: at most.
      evaluations: how often the model is evaluated during unlearning, for Pareto pictures.
      **options: further arguments of `hamu_jax.unlearn`.

    Returns:
      What the driver returns; and what a table needs: how the run ended, the model's numbers, its accuracies during unlearning.
    """
    loss = scenario.subject.loss
    evaluation = hamu_jax.Evaluation(
        {name: scenario.splits[name] for name in scenario.watched},
        _metrics(loss) if scenario.watched_metrics is None else scenario.watched_metrics,
        every=-(-steps // evaluations),
        batch_size=scenario.evaluated_at_once,
    )
    result = hamu_jax.unlearn(
        built.loss,
        scenario.subject.params,
        scenario.retain,
        scenario.subject.forget,
        built.optimizer,
        steps=steps,
        evaluation=evaluation,
        **built.options,
        **options,
    )
    way = {name: result.history.measured(f"{name}/accuracy") for name in scenario.watched}
    params = result.params
    return result, {
        "status": result.status,
        "steps": result.steps,
        "measured": measure(loss, params, scenario.splits) if scenario.measure is None else scenario.measure(params),
        "way": {name: {"step": steps.tolist(), "accuracy": values.tolist()} for name, (steps, values) in way.items()},
    }


def step_of(gradients: Callable[..., Any], optimizer: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
    """`step(params, state, retain, forget) -> (params, state, losses)`: both gradients, the update, the new parameters."""

    def step(params: Any, state: Any, retain: Any, forget: Any) -> tuple[Any, Any, Any]:
        losses, grads = gradients(params, retain, forget)
        updates, state = optimizer.update(grads.retain, state, params, forget_grads=grads.forget)
        return optax.apply_updates(params, updates), state, losses

    return step


def measure(loss: objectives.CrossEntropy, params: Any, splits: dict[str, Any]) -> dict[str, float | None]:
    """Loss, accuracy, divergence from and agreement with the retrained model on every split; membership inference."""
    numbers = hamu_jax.evaluate(loss, params, splits, _metrics(loss))
    forgotten, *unseen = (metrics.values(loss, params, splits[name]) for name in ("forget", "validation forget", "test forget"))
    for split, losses in zip(("validation", "test"), unseen, strict=True):
        # Not finite: a model so broken that its losses overflow. It has no rank statistic.
        whole = np.isfinite(forgotten).all() and np.isfinite(losses).all()
        numbers[f"{split} membership"] = metrics.auc(forgotten, losses) if whole else float("nan")
    return {key: value if np.isfinite(value) else None for key, value in numbers.items()}


def _metrics(loss: objectives.CrossEntropy) -> dict[str, metrics.Metric]:
    """The metrics, the same during and after unlearning: one compiled program serves both."""
    return {
        "accuracy": metrics.accuracy(loss.apply),
        "kl": metrics.kl_divergence(loss.apply, "retrained"),
        "agreement": metrics.agreement(loss.apply, "retrained"),
    }
