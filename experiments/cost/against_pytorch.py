"""The lines that are measured beside PyTorch, where there is a clone of the paper's code, and beside what bounds them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import hamu_jax
from experiments.cost import benchmarked_models
from experiments.cost.benchmarked_models import BenchmarkedModel
from experiments.cost.pytorch_process import Reference
from experiments.cost.rows import Row, Scale, alone, compared
from experiments.runs.timing import Seconds, clocked, interleaved
from experiments.runs.unlearning import step_of
from hamu_jax import metrics, rules

PAPER, OWN_GDIFF, FLOOR = "the paper's PyTorch", "our own gradient difference", "memory bandwidth"
# What an update must move, in arrays of the parameters' size: both gradients are read for the inner products, again for the
# residual's norm, and again for the new parameters, which are read and written. A scaling in place reads one and writes it.
UPDATE_MOVES, SCALING_MOVES = 2 + 2 + 2 + 2, 2


def update(scale: Scale, reference: Reference | None) -> list[Row]:
    """New parameters from two gradients."""
    rows: list[Row] = []
    for model in _models(scale, reference, gradients_only=True):
        functions = {"ours": clocked(_Carried(_taking(model), model, model.grads))}
        size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        if model.loss is None:
            scaling = jax.jit(lambda x: 1.0000001 * x, donate_argnums=0)
            functions["scaling"] = clocked(_InPlace(scaling, jnp.ones(size)))
        functions |= _theirs(reference, "update")
        facts = _agreement(model, reference, _update_of(model))  # before PyTorch's parameters have moved
        seconds = interleaved(functions, scale.repeats)
        rows += _rows(model.title, seconds, {PAPER: ("paper", 0.1)}, facts)
        if "scaling" in seconds:
            floor = [x * UPDATE_MOVES / SCALING_MOVES for x in seconds["scaling"]]
            rows.append(compared(model.title, FLOOR, seconds["ours"], floor, target=1.5))
    return rows


def step(scale: Scale, reference: Reference | None) -> list[Row]:
    """Two gradients, one after the other, and new parameters from them."""
    rows: list[Row] = []
    for model, target in zip(_models(scale, reference), (1.0, 0.9), strict=True):
        functions = {
            "ours": clocked(stepper(model)),
            "gdiff": clocked(stepper(model, rules.gdiff())),
            **_theirs(reference, "step"),
        }
        facts = _agreement(model, reference, _update_of(model))  # before PyTorch's parameters have moved
        seconds = interleaved(functions, scale.repeats)
        rows += _rows(model.title, seconds, {OWN_GDIFF: ("gdiff", 1.02), PAPER: ("paper", target)}, facts)
    return rows


def per_example(scale: Scale, reference: Reference | None) -> list[Row]:
    """`<g_i, v>` for every example, and every example's gradient."""
    model = _resnet(scale, reference)
    batch, loss = model.batches[0], model.loss
    profile = jax.jit(lambda p, b, v: hamu_jax.directional(loss, p, b, v))
    gradient = jax.jit(lambda p, b: jax.grad(lambda q: jnp.mean(loss(q, b)))(p))
    every = jax.jit(lambda p, b: hamu_jax.per_example_grads(loss, p, b))
    functions = {
        "profile": clocked(lambda: profile(model.params, batch, model.params)),
        "gradient": clocked(lambda: gradient(model.params, batch)),
        "every": clocked(lambda: every(model.params, batch)),
        **_theirs(reference, "per_example"),
    }
    seconds = interleaved(functions, scale.repeats)
    title = f"{model.title}, {scale.images} images"
    rows = [compared(f"{title}: profile", "one gradient of the same", seconds["profile"], seconds["gradient"], target=1.5)]
    for name, ours, target in (("profile", "profile", 0.2), ("gradients", "every", None)):
        if "paper" in seconds:
            rows.append(compared(f"{title}: {name}", "torch.func's gradients", seconds[ours], seconds["paper"], target=target))
    return rows


def evaluation(scale: Scale, reference: Reference | None) -> list[Row]:
    """Mean loss and accuracy of a batch."""
    model = _resnet(scale, reference)
    wanted = {"accuracy": metrics.accuracy(model.loss.apply)}
    splits = {"retain": model.batches[0]}
    functions = {"ours": clocked(lambda: hamu_jax.evaluate(model.loss, model.params, splits, wanted))}
    seconds = interleaved(functions | _theirs(reference, "evaluate"), scale.repeats)
    return _rows(f"{model.title}, {scale.images} images", seconds, {PAPER: ("paper", None)}, {})


def stepper(model: BenchmarkedModel, rule: rules.Rule | None = None) -> Callable[[], Any]:
    """Makes a whole step every time that it is called."""
    return _Carried(_stepping(model, rule), model, model.batches)


def _models(scale: Scale, reference: Reference | None, *, gradients_only: bool = False) -> Iterator[BenchmarkedModel]:
    """One after the other: PyTorch holds one at a time."""
    config = benchmarked_models.TINY if scale.tiny else benchmarked_models.SMOLLM2
    yield _resnet(scale, reference)
    yield benchmarked_models.language_model(reference, config=config, sequences=scale.sequences)
    if gradients_only:
        yield benchmarked_models.dense(reference, config=config)


def _resnet(scale: Scale, reference: Reference | None) -> BenchmarkedModel:
    """The paper's network, or without theirs beside it and to try things out, a smaller one."""
    return benchmarked_models.resnet20(reference, images=scale.images, small=scale.tiny and reference is None)


def _theirs(reference: Reference | None, what: str) -> dict[str, Callable[[], float]]:
    """PyTorch's time of something, if it is there."""
    return {} if reference is None else {"paper": lambda: reference.ask("timed", what=what)}


def _rows(title: str, seconds: Seconds, against: dict[str, tuple[str, float | None]], facts: dict[str, Any]) -> list[Row]:
    """Ours against each that was measured."""
    rows = []
    for words, (name, target) in against.items():
        if name in seconds:
            extra = facts if name == "paper" else {}
            rows.append({**compared(title, words, seconds["ours"], seconds[name], target=target), **extra})
    return rows or [alone(title, seconds["ours"])]


class _Carried:
    """A function of parameters, optimizer state and more, called again and again with what it returned."""

    def __init__(self, function: Callable[..., tuple[Any, Any]], model: BenchmarkedModel, arguments: tuple[Any, Any]) -> None:
        self._function, self._arguments = function, arguments
        self._carry = jax.tree.map(jnp.copy, (model.params, model.optimizer().init(model.params)))

    def __call__(self) -> Any:
        """Once more."""
        self._carry = self._function(*self._carry, *self._arguments)
        return self._carry


class _InPlace:
    """A function of one array, called again and again with what it returned."""

    def __init__(self, function: Callable[[Any], Any], array: Any) -> None:
        self._function, self._array = function, array

    def __call__(self) -> Any:
        """Once more."""
        self._array = self._function(self._array)
        return self._array


def _taking(model: BenchmarkedModel) -> Callable[..., tuple[Any, Any]]:
    """The step from given gradients; parameters and state are changed in place, as PyTorch changes them."""
    optimizer = model.optimizer()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def take(params: Any, state: Any, retain: Any, forget: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(retain, state, params, forget_grads=forget)
        return optax.apply_updates(params, updates), state

    return take


def _stepping(model: BenchmarkedModel, rule: rules.Rule | None = None) -> Callable[..., tuple[Any, Any]]:
    """The whole step."""
    step = step_of(hamu_jax.paired_value_and_grad(model.loss), model.optimizer(rule))
    return jax.jit(lambda *arguments: step(*arguments)[:2], donate_argnums=(0, 1))


def _update_of(model: BenchmarkedModel) -> float:
    """The length of our step, per unit of learning rate."""
    optimizer = model.optimizer()
    updates, _ = jax.jit(lambda r, f: optimizer.update(r, optimizer.init(r), r, forget_grads=f))(*model.grads)
    return float(optax.tree.norm(updates)) / benchmarked_models.SETTINGS["learning_rate"]


def _agreement(model: BenchmarkedModel, reference: Reference | None, length: float) -> dict[str, float]:
    """How far both sides' losses and steps are apart: that they compute the same."""
    if reference is None:
        return {}
    theirs = reference.ask("facts")
    apart = {"steps_apart": abs(length / theirs["length"] - 1.0)}
    if model.loss is not None:
        ours = [float(hamu_jax.evaluate(model.loss, model.params, {"": x})["/loss"]) for x in model.batches]
        apart["losses_apart"] = max(abs(a / b - 1.0) for a, b in zip(ours, theirs["losses"], strict=True))
    return apart
