"""A method as the optimizer that `hamu_jax.unlearn` takes, and the data that methods ask for."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

import hamu_jax
from experiments.methods.registry import Loss, Method, Subject
from hamu_jax import objectives, rules

AT_ONCE = 2000  # examples whose logits are computed at once

BASES: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": optax.scale_by_learning_rate,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.0),
}


@dataclasses.dataclass(frozen=True)
class Built:
    """What `hamu_jax.unlearn` takes: `unlearn(built.loss, params, retain, forget, built.optimizer, **built.options, ...)`."""

    loss: Loss
    optimizer: optax.GradientTransformationExtraArgs
    options: dict[str, Any]


def prepare(
    loss: objectives.CrossEntropy, params: Any, examples: Mapping[str, np.ndarray], *, classes: int, groups: int, seed: int
) -> dict[str, np.ndarray]:
    """Examples with the arrays that methods read: the original model's logits, a wrong label, and the number of a request."""
    return {
        **examples,
        "teacher": logits(loss.apply, params, examples),
        "random": objectives.random_labels(examples["label"], classes, seed=seed),
        "group": np.arange(len(examples["label"]), dtype=np.int32) % groups,
    }


def requests(count: int) -> hamu_jax.Groups:
    """The requests that `prepare` numbered."""
    return hamu_jax.Groups(_group, count)


def _group(batch: Any) -> Any:
    """The number of each example's request."""
    return batch["group"]


def logits(apply: Callable[[Any, Any], jax.Array], params: Any, examples: Mapping[str, np.ndarray]) -> np.ndarray:
    """A model's logits of all examples, computed `AT_ONCE` examples at a time."""
    logits_of, size = jax.jit(apply), len(examples["label"])
    batches = ({name: value[start : start + AT_ONCE] for name, value in examples.items()} for start in range(0, size, AT_ONCE))
    return np.concatenate([np.asarray(logits_of(params, batch)) for batch in batches])


def build_method(
    method: Method,
    subject: Subject,
    *,
    learning_rate: float,
    improvement: float = 0.0,
    weight: float | None = None,
    clip_norm: float | None = 1.0,
    infeasible: str | None = None,
    base: str = "sgd",
    **options: Any,
) -> Built:
    """A method's objectives and its optimizer.

    Learning rate and improvement are part of the optimizer's state, not of the program: runs that differ in them alone
    are the same program, which XLA's compilation cache then compiles once.

    Args:
      method: of `METHODS`.
      subject: the model that is to forget.
      learning_rate: the learning rate.
      improvement: the required improvement, where the method takes one.
      weight: the share of the forget gradient, of methods that add two weighted gradients. None: half. A constant of the
        program.
      clip_norm: the norm to which both gradients are clipped.
      infeasible: what HAMU-Q and HAMU-U do when they cannot keep a promise. None: their default.
      base: a name in `BASES`, the optimizer that takes the steps.
      **options: further arguments of `hamu_jax.combine`, before the method's own.

    Raises:
      ValueError: for another base, or `infeasible` or `weight` given to a method without one.
    """
    if base not in BASES:
        raise ValueError(f"base: got {base!r}, expected one of {', '.join(BASES)}")
    if infeasible is not None and method.promise not in (rules.hamu_q, rules.hamu_u):
        raise ValueError(f"infeasible: got {infeasible!r} for {method.title}, expected None: it promises nothing of that kind")
    if weight is not None and not method.weighs:
        raise ValueError(f"weight: got {weight!r} for {method.title}, expected None: it does not add weighted gradients")
    rule = method.rule if infeasible is None else method.promise(infeasible)
    rule = rule if weight is None else rules.gdiff(weight)
    retain, forget = method.retain(subject), method.forget(subject)
    requests = {"num_requests": subject.groups.count} if rule.many else {}
    wrapped = [] if method.wrap is None else [method.wrap(subject, forget)]  # once: below is also called to initialise

    def chain(learning_rate: Any, improvement: Any) -> optax.GradientTransformationExtraArgs:
        arguments = {**method.options, **options, **requests}
        arguments["blocks"] = subject.tensors if arguments.get("blocks", "leaf") == "leaf" else arguments["blocks"]
        step = hamu_jax.combine(rule, improvement=improvement, clip_norm=clip_norm, **arguments)
        return optax.chain(step, *wrapped, BASES[base](learning_rate))

    optimizer = optax.inject_hyperparams(chain)(learning_rate=learning_rate, improvement=improvement)
    return Built(retain, optimizer, {"forget_loss": forget, "forget_groups": subject.groups if rule.many else None})
