"""Means of losses and metrics over whole data sets."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from hamu_jax._base import validate
from hamu_jax._datasets.fixed_size_batches import fixed_size_batches
from hamu_jax._gradients.losses import Loss, check_data, example_weights, per_example, weighted_sum


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What the driver evaluates, and how often.

    Attributes:
      splits: named data sets, pytrees of arrays with a leading example axis.
      metrics: named functions `metric(params, batch) -> [batch]`; the mean loss is always added as `loss`.
      every: the number of steps between evaluations; the start and the end are always evaluated.
      batch_size: examples evaluated at once.
    """

    splits: Mapping[str, Any]
    metrics: Mapping[str, Loss] = dataclasses.field(default_factory=dict)
    every: int = 10
    batch_size: int = 1024

    def __post_init__(self) -> None:
        check_named("splits", self.splits)
        check_named("metrics", self.metrics, functions=True)
        validate.integer("every", self.every)
        validate.integer("batch_size", self.batch_size)

    def measure(self, loss: Loss, params: Any, mesh: Mesh | None = None) -> dict[str, float]:
        """What `evaluate` returns for these parameters, of data that has been checked."""
        functions = {"loss": loss, **self.metrics}
        return means_of_splits(functions, params, self.splits, batch_size=self.batch_size, mesh=mesh)

    def columns(self) -> tuple[str, ...]:
        """The names of what `measure` returns."""
        return tuple(f"{split}/{name}" for split in self.splits for name in ("loss", *self.metrics))


def evaluate(
    loss: Loss,
    params: Any,
    splits: Mapping[str, Any],
    metrics: Mapping[str, Loss] | None = None,
    *,
    batch_size: int = 1024,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """Means of a loss and of metrics over data sets, with equal weight for each example, also in a last batch that is not full.

    Args:
      loss: `loss(params, batch) -> [batch]`; if it has `weights(batch)`, these weights enter every mean.
      params: the parameters.
      splits: named data sets, pytrees of arrays with a leading example axis.
      metrics: named functions `metric(params, batch) -> [batch]`.
      batch_size: examples evaluated at once.
      mesh: split them over its devices (`hamu_jax.sharding.make_mesh`); `params` must be on it. With many processes each
        passes the same splits, and reads only the rows of its devices.

    Returns:
      `{"split/metric": mean}`, with `split/loss` for the loss.

    Raises:
      ValueError: for an empty split, leaves of different lengths, labels beyond the classes (if the loss or a metric can check
        them), or a metric that does not return `[batch]`.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = lambda w, batch: (batch - w) ** 2
      >>> evaluate(loss, 1.0, {"test": jnp.array([1.0, 3.0, 6.0])}, batch_size=2)
      {'test/loss': 9.666666666666666}
    """
    validate.integer("batch_size", batch_size)
    validate.function("loss", loss, "loss(params, batch) -> [batch]")
    check_named("splits", splits)
    check_named("metrics", {} if metrics is None else metrics, functions=True)
    functions = {"loss": loss, **(metrics or {})}
    for split, data in splits.items():
        check_split(split, data, loss, metrics or {}, params)
    return means_of_splits(functions, params, splits, batch_size=batch_size, mesh=mesh)


def check_named(name: str, values: Any, *, functions: bool = False) -> None:
    """Checks named data sets, or named metrics."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        kind = "metrics" if functions else "data sets"
        raise TypeError(f"{name}: got {validate.shown(values)}, expected a mapping from names to {kind}")
    if functions and "loss" in values:
        raise ValueError(f"{name}: got the name 'loss', expected another: it is the mean loss")
    for key, value in values.items() if functions else ():
        validate.function(f"{name}[{key!r}]", value, "metric(params, batch) -> [batch]")


def check_split(split: str, data: Any, loss: Loss, metrics: Mapping[str, Loss], params: Any) -> None:
    """Checks one data set, its labels too where the loss and the metrics can.

    Raises:
      ValueError: naming the split.
    """
    for function in (loss, *metrics.values()):
        check_data(f"splits[{split!r}]", data, function, params)


def means_of_splits(
    functions: Mapping[str, Loss], params: Any, splits: Mapping[str, Any], *, batch_size: int, mesh: Mesh | None
) -> dict[str, float]:
    """What `evaluate` returns, of data that has been checked."""
    return {
        f"{split}/{name}": value
        for split, data in splits.items()
        for name, value in _means(functions, params, data, batch_size=batch_size, name=f"splits[{split!r}]", mesh=mesh).items()
    }


def _means(
    functions: Mapping[str, Loss], params: Any, data: Any, *, batch_size: int, name: str, mesh: Mesh | None
) -> dict[str, float]:
    """The means over one data set."""
    size = validate.batch(name, data)
    try:
        sums_of_batches = [
            _weighted_sums(tuple(functions.items()), params, batch, real)
            for batch, real in fixed_size_batches(data, size, batch_size, mesh)
        ]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    sums = jax.tree.map(lambda *xs: sum(float(x) for x in xs), *sums_of_batches)
    total = sums[-1]
    return {key: value / total if total else float("nan") for key, value in zip(functions, sums[:-1], strict=True)}


@functools.partial(jax.jit, static_argnames="functions")
def _weighted_sums(functions: tuple[tuple[str, Loss], ...], params: Any, batch: Any, real: Array) -> tuple[Array, ...]:
    """Weighted sums of every named function over the first `real` examples of a batch, and the sum of weights."""
    size = validate.batch("batch", batch)
    mask = (jnp.arange(size) < real).astype(jnp.float32)
    weights = example_weights(functions[0][1], batch, size, mask)
    values = (
        per_example(function, params, batch, size, "a batch", function="loss" if name == "loss" else f"metrics[{name!r}]")
        for name, function in functions
    )
    return (*(weighted_sum(x, weights) for x in values), jnp.sum(weights))
