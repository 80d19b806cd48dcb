"""Numbers about a model's predictions, one per example: `metric(params, batch) -> [batch]`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from hamu_jax.objectives._labelled import Apply, Labelled, mean


@dataclasses.dataclass(frozen=True)
class Metric(Labelled):
    """A number per example, for `evaluate`, `Evaluation` and `values`. Made by the functions of `hamu_jax.metrics`.

    Two metrics with the same arguments are equal, so that jit does not compile again.

    Attributes:
      apply: `apply(params, batch) -> logits`, `[batch, classes]` or `[batch, time, vocabulary]`.
      label: where the batch holds its labels, `[batch]` or `[batch, time]`: a key or an index. -1 marks padding.
      score: `score(logits, labels) -> labels' shape`, or `score(logits, labels, reference_logits)` with a reference.
      pool: from the scores and a mask of those that count to one number per example.
      reference: where the batch holds another model's logits, or a function `reference(batch) -> logits`.
      end_token: whether the last label of a sequence counts.
    """

    score: Callable[..., Float[Array, "*labels"]] = dataclasses.field(kw_only=True)
    pool: Callable[[Float[Array, "*labels"], Bool[Array, "*labels"]], Float[Array, " batch"]] = dataclasses.field(kw_only=True)
    reference: Any = dataclasses.field(default=None, kw_only=True)
    end_token: bool = dataclasses.field(default=True, kw_only=True)

    def counted(self, batch: Any) -> Bool[Array, " batch *time"]:
        """Which predictions count."""
        counted = super().counted(batch)
        if self.end_token or counted.ndim == 1:
            return counted
        from_here = jnp.cumsum(counted[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1]
        return counted & (from_here > 1)

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """One number per example, 0 where all its labels are padding."""
        labels, counted = self.labels(batch), self.counted(batch)
        logits = [self.classified("apply", self.apply(params, batch), batch)]
        if self.reference is not None:
            other: Any = self.reference(batch) if callable(self.reference) else batch[self.reference]
            logits.append(self.classified("reference", other, batch))
        values = self.score(logits[0], jnp.maximum(labels, 0), *logits[1:])
        return jnp.where(self.weights(batch) > 0, self.pool(values, counted), 0.0)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Checks the labels of concrete data: whole numbers, as many as `apply` has predictions, none beyond its classes.

        A metric that reads of its labels only what is padding (`entropy`, `kl_divergence`, `agreement`) takes any class.

        Raises:
          ValueError: naming the first label that is wrong.
        """
        check = self.check_shapes if self.score in _IGNORING_THE_LABEL else self.check_classes
        check(params, batch, name)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """1 for an example or a sequence of any length, 0 for one that is all padding."""
        counted = self.counted(batch)
        return jnp.any(counted, axis=tuple(range(1, counted.ndim))).astype(jnp.float32)


def accuracy(apply: Apply, *, label: Any = "label") -> Metric:
    """1 where the label has the largest logit, else 0; for sequences the fraction of their tokens (token accuracy).

    Of equal logits the first counts as the largest. Logits that are NaN give NaN. Of a text see `exact_memorisation` too.

    Args:
      apply: `apply(params, batch) -> logits`, `[batch, classes]`, or `[batch, time, vocabulary]` such that `logits[:, t]`
        predicts `labels[:, t]` (already shifted).
      label: where the batch holds its labels, `[batch]` or `[batch, time]`: a key or an index. -1 marks padding, and tokens
        that don't count, such as the question's.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding, NaN for a label beyond the classes. It raises ValueError, while
      tracing, if the shapes of logits and labels don't fit, or the labels are not integers. `metric.check(params, batch)`
      looks at the labels of concrete data.

    Example:
      >>> import jax.numpy as jnp
      >>> metric = accuracy(lambda params, batch: batch["x"] @ params)
      >>> print(metric(jnp.eye(2), {"x": jnp.eye(2), "label": jnp.array([0, 0])}))
      [1. 0.]
    """
    return Metric(apply, label, score=right, pool=mean)


def entropy(apply: Apply, *, label: Any = "label") -> Metric:
    """The entropy `-sum_c p_c log p_c` of the prediction, in nats; for sequences its mean over their tokens.

    From 0 (certain) to the logarithm of the number of classes (no idea). It ignores which label is right.

    Args:
      apply: as for `accuracy`.
      label: as for `accuracy`; says what is padding.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding.

    Example:
      >>> import jax.numpy as jnp
      >>> metric = entropy(lambda params, batch: batch["x"] @ params)
      >>> print(metric(jnp.zeros((2, 4)), {"x": jnp.eye(2), "label": jnp.array([0, -1])}))
      [1.3862944 0.       ]
    """
    return Metric(apply, label, score=_entropy, pool=mean)


def probability(apply: Apply, *, label: Any = "label") -> Metric:
    """The probability of the label; for sequences the geometric mean over their tokens, `exp(mean_t log p_t)`.

    The latter is what TOFU (arXiv 2401.06121, section 2.2.1) calls probability: `p(answer | question)^(1/length)`.

    Args:
      apply: as for `accuracy`.
      label: as for `accuracy`.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding.

    Example:
      >>> import jax.numpy as jnp
      >>> metric = probability(lambda params, batch: jnp.log(params))
      >>> print(metric(jnp.array([[[0.5, 0.5], [0.875, 0.125]]]), {"label": jnp.array([[0, 1]])}))
      [0.25]
    """
    return Metric(apply, label, score=log_probability, pool=_exp_mean)


def kl_divergence(apply: Apply, reference: Any, *, label: Any = "label") -> Metric:
    """`KL(reference || model) = sum_c r_c log(r_c / p_c)`, in nats; for sequences its mean over their tokens.

    With the retrained model as reference, on the forget set: how far from one that never saw it. 0 if they agree fully.

    Args:
      apply: as for `accuracy`.
      reference: the other model's logits, of the same shape: where the batch holds them (a key or an index), or a function
        `reference(batch) -> logits`, such as `lambda batch: apply(retrained, batch)`. Parameters inside such a function
        become constants of the compiled program: for large models put the logits into the batch.
      label: as for `accuracy`; says what is padding.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = {"retrained": jnp.log(jnp.array([[0.5, 0.5]])), "label": jnp.array([0])}
      >>> metric = kl_divergence(lambda params, batch: jnp.log(params), "retrained")
      >>> print(metric(jnp.array([[0.8, 0.2]]), batch).round(3))
      [0.223]
    """
    return Metric(apply, label, score=_divergence, pool=mean, reference=reference)


def agreement(apply: Apply, reference: Any, *, label: Any = "label") -> Metric:
    """1 where model and reference have their largest logit at the same class; for sequences the fraction of their tokens.

    Args:
      apply: as for `accuracy`.
      reference: as for `kl_divergence`.
      label: as for `accuracy`; says what is padding.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding. Logits that are NaN give NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = {"x": jnp.eye(2), "label": jnp.array([0, 1])}
      >>> apply = lambda params, batch: batch["x"] @ params
      >>> print(agreement(apply, lambda batch: batch["x"])(jnp.array([[1.0, 0.0], [1.0, 0.0]]), batch))
      [1. 0.]
    """
    return Metric(apply, label, score=_agree, pool=mean, reference=reference)


def _exp_mean(values: Float[Array, "*labels"], real: Bool[Array, "*labels"]) -> Float[Array, " batch"]:
    """The exponential of the mean."""
    return jnp.exp(mean(values, real))


def lowest_log(logits: Float[Array, "*labels classes"]) -> Float[Array, ""]:
    """Stands for a logarithm of 0, of a class that a logit of -inf rules out: `0 * -inf` is NaN. Its square is finite too."""
    return -jnp.sqrt(jnp.finfo(logits.dtype).max) / 4


def _log_probabilities(logits: Float[Array, "*labels classes"]) -> Float[Array, "*labels classes"]:
    """Of all classes, finite."""
    return jnp.maximum(jax.nn.log_softmax(logits), lowest_log(logits))


def log_probability(logits: Float[Array, "*labels classes"], labels: Int[Array, "*labels"]) -> Float[Array, "*labels"]:
    """The log-probability of the label."""
    return -optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def _top(logits: Float[Array, "*labels classes"]) -> tuple[Int[Array, "*labels"], Bool[Array, "*labels"]]:
    """The predicted class, and whether there is one: `argmax` takes NaN for the largest."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), ~jnp.any(jnp.isnan(logits), axis=-1)


def right(logits: Float[Array, "*labels classes"], labels: Int[Array, "*labels"]) -> Float[Array, "*labels"]:
    """1 for a right prediction, NaN for a label beyond the classes."""
    predicted, known = _top(logits)
    return jnp.where(known & (labels < logits.shape[-1]), (predicted == labels).astype(logits.dtype), jnp.nan)


def _agree(
    logits: Float[Array, "*labels classes"], labels: Int[Array, "*labels"], reference: Float[Array, "*labels classes"]
) -> Float[Array, "*labels"]:
    """1 for the same prediction."""
    del labels
    predicted, known = _top(reference)
    return jnp.where(known, right(logits, predicted), jnp.nan)


def _entropy(logits: Float[Array, "*labels classes"], labels: Int[Array, "*labels"]) -> Float[Array, "*labels"]:
    """The entropy of each prediction."""
    del labels
    logs = _log_probabilities(logits)
    return -jnp.sum(jnp.exp(logs) * logs, axis=-1)


def _divergence(
    logits: Float[Array, "*labels classes"], labels: Int[Array, "*labels"], reference: Float[Array, "*labels classes"]
) -> Float[Array, "*labels"]:
    """At least 0, which rounding can miss."""
    del labels
    dtype = jnp.promote_types(logits.dtype, reference.dtype)
    model, other = (_log_probabilities(x.astype(dtype)) for x in (logits, reference))
    return jnp.maximum(optax.losses.kl_divergence_with_log_targets(model, other), 0.0)


_IGNORING_THE_LABEL = (_entropy, _agree, _divergence)  # they read what is padding, and no class
