"""One unlearning run: the driver on a scenario, and the measurements of the model that it returns."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import optax

import hamu_jax
from experiments import methods
from hamu_jax import metrics, objectives, rules

Record: TypeAlias = dict[str, Any]
WATCHED = ("validation retain", "validation forget", "test retain", "test forget")
COST = "validation retain"  # of equal forgetting: the split whose loss is the cost
TASK = "task"  # the metric that is the task's loss: the driver's `loss` is the method's retain objective, of KL a divergence
TOLERANCE = 0.1  # of `forget`: the half-width of the band around its level


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
    scenario: Scenario,
    built: methods.Built,
    *,
    steps: int,
    evaluate_every: int,
    level: float | None = None,
    stopping: hamu_jax.Stopping | None = None,
    **options: Any,
) -> tuple[hamu_jax.Unlearned, Record]:
    """Unlearns.

    Args:
      scenario: model and data.
      built: the method.
      steps: at most.
      evaluate_every: the steps between two evaluations during unlearning, for pictures.
      level: stop as soon as the loss of the whole forget set has reached this level, at an evaluation. Only this loss and that
        of `COST` are then evaluated.
      stopping: when else to stop.
      **options: further arguments of `hamu_jax.unlearn`.

    Returns:
      What the driver returns; and what a table needs: how the run ended, whether it reached the level, its CPU seconds
      (compilation and evaluations included), the model's numbers, its losses and accuracies during unlearning.
    """
    loss, stopping = scenario.subject.loss, stopping or hamu_jax.Stopping()
    watched, functions = scenario.watched, scenario.watched_metrics
    functions = _metrics(loss) if functions is None else functions
    if level is not None:
        watched, functions = ("forget", COST), {TASK: loss}
        stopping = dataclasses.replace(stopping, targets=(hamu_jax.Target(f"forget/{TASK}", at_least=level),))
    evaluation = hamu_jax.Evaluation(
        {name: scenario.splits[name] for name in watched},
        functions,
        every=evaluate_every,
        batch_size=scenario.evaluated_at_once,
    )
    begun = time.process_time()
    result = hamu_jax.unlearn(
        built.loss,
        scenario.subject.params,
        scenario.retain,
        scenario.subject.forget,
        built.optimizer,
        steps=steps,
        evaluation=evaluation,
        stopping=stopping,
        **built.options,
        **options,
    )
    seconds = time.process_time() - begun
    return result, {
        "status": result.status,
        "reached": None if level is None else _last(result.history, f"forget/{TASK}") >= level,
        "steps": result.steps,
        "seconds": seconds,
        "measured": _measured(scenario, result.params),
        "way": _accuracies(result.history, watched) if level is None else _losses(result.history, TASK, dict.fromkeys(watched)),
    }


def run_forget(scenario: Scenario, rule: rules.Rule, *, level: float, **options: Any) -> tuple[hamu_jax.Unlearned, Record]:
    """Unlearns by `hamu_jax.forget`, with validation data as its held-out data.

    The level that it is told lies above `level` by as much as its band is wide: whatever it counts as reached is at `level` or
    above.

    Args:
      scenario: model and data.
      rule: of `hamu_jax.rules`.
      level: the loss of the whole forget set that is to be reached.
      **options: further arguments of `hamu_jax.forget`.

    Returns:
      What the driver returns, and what a table needs, as `run_method`; `steps` counts all that were made, `best_step` those up
      to the parameters that are returned.
    """
    subject, splits = scenario.subject, scenario.splits
    begun = time.process_time()
    forgotten = hamu_jax.forget(
        subject.loss,
        subject.params,
        scenario.retain,
        subject.forget,
        level=level / (1.0 - TOLERANCE),
        tolerance=TOLERANCE,
        held_out=splits[COST],
        rule=rule,
        **options,
    )
    seconds = time.process_time() - begun
    return forgotten.run, {
        "status": forgotten.status,
        "reached": forgotten.losses["forget"].after >= level,
        "steps": forgotten.run.steps,
        "best_step": forgotten.best_step,
        "seconds": seconds,
        "measured": _measured(scenario, forgotten.params),
        "way": _losses(forgotten.history, "loss", {"forget": None, COST: "held_out"}),
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


def _measured(scenario: Scenario, params: Any) -> Record:
    """The numbers of a model after unlearning."""
    if scenario.measure is not None:
        return scenario.measure(params)
    return measure(scenario.subject.loss, params, scenario.splits)


def _accuracies(history: hamu_jax.History, splits: tuple[str, ...]) -> Record:
    """The accuracy on splits during unlearning, with the steps at which it was evaluated."""
    measured = {name: history.measured(f"{name}/accuracy") for name in splits}
    return {name: {"step": steps.tolist(), "accuracy": values.tolist()} for name, (steps, values) in measured.items()}


def _losses(history: hamu_jax.History, metric: str, splits: Mapping[str, str | None]) -> Record:
    """The loss on splits at every evaluation, None where it was not finite; `splits` has their names in the history."""
    columns = {name: f"{split or name}/{metric}" for name, split in splits.items()}
    rows = [row for row in history.rows if any(column in row for column in columns.values())]
    return {
        name: {"step": [row["step"] for row in rows], "loss": [row.get(column) for row in rows]}
        for name, column in columns.items()
    }


def _last(history: hamu_jax.History, column: str) -> float:
    """The last evaluated value of a column."""
    return float(history.measured(column)[1][-1])


def _metrics(loss: objectives.CrossEntropy) -> dict[str, metrics.Metric]:
    """The metrics, the same during and after unlearning: one compiled program serves both."""
    return {
        "accuracy": metrics.accuracy(loss.apply),
        "kl": metrics.kl_divergence(loss.apply, "retrained"),
        "agreement": metrics.agreement(loss.apply, "retrained"),
    }
