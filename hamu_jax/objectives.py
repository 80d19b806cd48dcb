"""Objectives: losses `loss(params, batch) -> [batch]`, one number an example, that know which examples are padding."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

__all__ = ["CrossEntropy", "cross_entropy"]


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """See `cross_entropy`."""

    apply: Callable[[Any, Any], Float[Array, "batch classes"]]
    label: Any = "label"

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """One cross-entropy an example, 0 where the label is negative."""
        labels = batch[self.label]
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(self.apply(params, batch), jnp.maximum(labels, 0))
        return jnp.where(labels >= 0, losses, 0.0)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """1 for an example, 0 for padding."""
        return (batch[self.label] >= 0).astype(jnp.float32)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Checks the labels of concrete data against the number of classes that `apply` returns.

        Raises:
          ValueError: naming the first label that is not below the number of classes, or that is not an integer.
        """
        labels = np.asarray(batch[self.label])
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name}[{self.label!r}]: got dtype {labels.dtype}, expected integer class labels")
        classes = jax.eval_shape(self.apply, params, batch).shape[-1]
        wrong = np.flatnonzero((labels >= classes) | (labels < -1))
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(
                f"{name}[{self.label!r}]: got label {labels[first]} at example {first}, expected 0 to {classes - 1}, "
                "or -1 for padding"
            )


def cross_entropy(apply: Callable[[Any, Any], Float[Array, "batch classes"]], *, label: Any = "label") -> CrossEntropy:
    """Softmax cross-entropy with integer labels, in nats.

    Args:
      apply: `apply(params, batch) -> logits [batch, classes]`.
      label: where the batch holds its labels `[batch]`: a key or an index. A label of -1 marks padding.

    Returns:
      A loss for `paired_value_and_grad`, `unlearn` and the rest.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cross_entropy(lambda params, batch: batch["x"] @ params)
      >>> batch = {"x": jnp.eye(2), "label": jnp.array([0, -1])}
      >>> print(loss(jnp.zeros((2, 4)), batch), loss.weights(batch))
      [1.3862944 0.       ] [1. 0.]
    """
    return CrossEntropy(apply, label)
