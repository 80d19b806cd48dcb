"""What losses and metrics of a model's predictions share: logits, labels, and which of them count."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._kernel.inner_products import accumulation_dtype, ratio

Apply: TypeAlias = Callable[[Any, Any], Float[Array, "batch *time classes"]]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A model's predictions with their labels.

    Attributes:
      apply: `apply(params, batch) -> logits`, `[batch, classes]` or `[batch, time, classes]`.
      label: where the batch holds its labels, `[batch]` or `[batch, time]`: a key or an index. -1 is not counted.
    """

    apply: Apply
    label: Any = "label"

    def labels(self, batch: Any) -> Int[Array, " batch *time"]:
        """The labels, of one dtype whatever the data's. They must be integers: 0.9 is no class."""
        labels = jnp.asarray(batch[self.label])
        _check_kind("batch", self.label, labels)
        return labels.astype(jnp.int32)

    def counted(self, batch: Any) -> Bool[Array, " batch *time"]:
        """Which predictions count."""
        return self.labels(batch) >= 0

    def classified(self, name: str, logits: Array, batch: Any) -> Float[Array, "batch *time classes"]:
        """Logits in float32 or wider, checked to be one vector per label."""
        shape = jnp.shape(batch[self.label])
        if jnp.ndim(logits) == 0 or jnp.shape(logits)[:-1] != shape:
            raise ValueError(f"{name}: got logits of shape {jnp.shape(logits)}, expected {shape} as the labels, and classes")
        return jnp.asarray(logits).astype(accumulation_dtype(logits))

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Checks the labels of concrete data: whole numbers, for as many predictions as `apply` returns.

        Raises:
          ValueError: naming what is wrong.
        """
        self.check_shapes(params, batch, name)

    def check_shapes(self, params: Any, batch: Any, name: str) -> int:
        """Checks the kind and the number of labels; returns the number of classes."""
        labels = np.asarray(batch[self.label])
        _check_kind(name, self.label, labels)
        shape = jax.eval_shape(self.apply, params, batch).shape
        if shape[:-1] != labels.shape:
            raise ValueError(f"{name}[{self.label!r}]: got shape {labels.shape}, expected {shape[:-1]} for logits {shape}")
        return shape[-1]

    def check_classes(self, params: Any, batch: Any, name: str) -> None:
        """Checks that every label is a class that `apply` knows, or -1.

        Raises:
          ValueError: naming the first label that is not below the number of classes, or that is not an integer.
        """
        classes, labels = self.check_shapes(params, batch, name), np.asarray(batch[self.label])
        wrong = np.argwhere((labels >= classes) | (labels < -1))
        if wrong.size:
            first = tuple(int(i) for i in wrong[0])
            where = f"example {first[0]}" + (f", position {first[1]}" if len(first) > 1 else "")
            raise ValueError(
                f"{name}[{self.label!r}]: got label {labels[first]} at {where}, expected 0 to {classes - 1}, or -1 for padding"
            )


def total(values: Float[Array, " batch *time"], counted: Bool[Array, " batch *time"]) -> Float[Array, " batch"]:
    """The sum over each example's counted predictions."""
    return jnp.sum(jnp.where(counted, values, 0.0), axis=tuple(range(1, values.ndim)))


def mean(values: Float[Array, " batch *time"], counted: Bool[Array, " batch *time"]) -> Float[Array, " batch"]:
    """The mean over each example's counted predictions; 0 if it has none."""
    return ratio(total(values, counted), count(counted, values.dtype))


def count(counted: Bool[Array, " batch *time"], dtype: Any = jnp.float32) -> Float[Array, " batch"]:
    """How many predictions of each example count."""
    return jnp.sum(counted.astype(dtype), axis=tuple(range(1, counted.ndim)))


def _check_kind(name: str, label: Any, labels: Any) -> None:
    """Checks that labels are integers."""
    dtype = jnp.result_type(labels)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name}[{label!r}]: got dtype {dtype}, expected integer class labels")
