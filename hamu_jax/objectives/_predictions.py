"""Losses of a model's predictions: one per example, or one per token, where a negative label is not counted."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax.objectives._labelled import Apply, Labelled, count, mean, total

Teacher: TypeAlias = Callable[[Any], Float[Array, "batch *time classes"]]
Per: TypeAlias = Literal["token", "sequence"]


@dataclasses.dataclass(frozen=True)
class Predictions(Labelled):
    """A loss of labelled predictions: the mean over each example's counted ones, weighted by their number."""

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """One loss per example, the mean over its counted predictions; 0 if it has none."""
        return mean(self.each(params, batch), self.counted(batch))

    def each(self, params: Any, batch: Any) -> Float[Array, " batch *time"]:
        """One loss per prediction; finite, but without meaning, where it does not count."""
        raise NotImplementedError

    def logits(self, params: Any, batch: Any) -> Float[Array, "batch *time classes"]:
        """The model's logits in float32 or wider, 0 where the prediction does not count."""
        return self.masked(self.apply(params, batch), batch, "apply")

    def masked(self, logits: Float[Array, "batch *time classes"], batch: Any, name: str) -> Float[Array, "batch *time classes"]:
        """`logits` in float32 or wider, 0 where the prediction does not count: these reach neither value nor gradient."""
        return jnp.where(self.counted(batch)[..., None], self.classified(name, logits, batch), 0.0)

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """How many predictions of each example count: the weighted mean over a batch is the mean over its predictions."""
        return count(self.counted(batch))


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Predictions):
    """See `cross_entropy`."""

    def each(self, params: Any, batch: Any) -> Float[Array, " batch *time"]:
        """One cross-entropy per prediction."""
        labels = jnp.maximum(batch[self.label], 0)
        return optax.losses.softmax_cross_entropy_with_integer_labels(self.logits(params, batch), labels)

    def check(self, params: Any, batch: Any, name: str = "batch") -> None:
        """Checks the labels of concrete data against the number of classes that `apply` returns.

        Raises:
          ValueError: naming the first label that is not below the number of classes, or that is not an integer.
        """
        self.check_classes(params, batch, name)


@dataclasses.dataclass(frozen=True)
class CausalCrossEntropy(CrossEntropy):
    """See `causal_cross_entropy`."""

    per: Per = "token"

    def __call__(self, params: Any, batch: Any) -> Float[Array, " batch"]:
        """One cross-entropy per sequence, the mean or the sum over its counted tokens."""
        if self.per == "token":
            return super().__call__(params, batch)
        return total(self.each(params, batch), self.counted(batch))

    def weights(self, batch: Any) -> Float[Array, " batch"]:
        """The number of counted tokens; with `per="sequence"` 1, or 0 for a sequence without any."""
        tokens = super().weights(batch)
        return tokens if self.per == "token" else (tokens > 0).astype(tokens.dtype)


@dataclasses.dataclass(frozen=True)
class Divergence(Predictions):
    """See `kl`."""

    teacher: Teacher = dataclasses.field(kw_only=True)

    def each(self, params: Any, batch: Any) -> Float[Array, " batch *time"]:
        """One divergence per prediction."""
        logits, target = self.logits(params, batch), self.masked(self.teacher(batch), batch, "teacher")
        if target.shape != logits.shape:
            raise ValueError(f"teacher: got logits of shape {target.shape}, expected {logits.shape} as apply returns")
        return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), jax.nn.log_softmax(target))


def cross_entropy(apply: Apply, *, label: Any = "label") -> CrossEntropy:
    """Softmax cross-entropy with integer labels, in nats.

    Args:
      apply: `apply(params, batch) -> logits [batch, classes]`.
      label: where the batch holds its labels `[batch]`: a key or an index. A label of -1 marks padding, whose logits reach
        neither the loss nor the gradient (its inputs must be finite, as the gradient passes through them).

    Returns:
      A loss for `paired_value_and_grad`, `unlearn` and the rest. It raises ValueError, while tracing, for logits that do
      not have the labels' shape.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cross_entropy(lambda params, batch: batch["x"] @ params)
      >>> batch = {"x": jnp.eye(2), "label": jnp.array([0, -1])}
      >>> print(loss(jnp.zeros((2, 4)), batch), loss.weights(batch))
      [1.3862944 0.       ] [1. 0.]
    """
    return CrossEntropy(apply, label)


def causal_cross_entropy(apply: Apply, *, label: Any = "label", per: Per = "token") -> CausalCrossEntropy:
    """A language model's cross-entropy on the tokens that count (the answer), in nats.

    With `per="token"` the loss of a sequence is the mean over its counted tokens and its weight is their number, so that a
    batch's mean is the mean over all its counted tokens, as in the paper's experiments. With `per="sequence"` the loss is
    the sum, minus the log-probability of the whole answer, and every sequence has weight 1, as `npo` and `dpo`
    require. A sequence without counted tokens has loss 0 and weight 0.

    Args:
      apply: `apply(params, batch) -> logits [batch, time, vocabulary]`, aligned with the labels: `logits[:, t]` predicts
        `label[:, t]` (the caller shifts one of them).
      label: where the batch holds its labels `[batch, time]`: a key or an index. -1 is not counted (prompt, padding).
      per: `"token"` or `"sequence"`.

    Returns:
      A loss as `cross_entropy` returns it.

    Raises:
      ValueError: for an unknown `per`.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = causal_cross_entropy(lambda params, batch: params[batch["tokens"]])
      >>> batch = {"tokens": jnp.array([[0, 1, 1], [0, 0, 0]]), "label": jnp.array([[-1, 1, 0], [-1, -1, 1]])}
      >>> print(loss(jnp.zeros((2, 4)), batch), loss.weights(batch))
      [1.3862944 1.3862944] [2. 1.]

    Source: HAMU, arXiv 2606.02119, language experiments (token-weighted mean over the answers of a batch).
    """
    validate.choice("per", per, get_args(Per))
    return CausalCrossEntropy(apply, label, per)


def kl(apply: Apply, teacher: Teacher, *, label: Any = "label") -> Divergence:
    """Kullback-Leibler divergence from a fixed model, the original one: `sum_c p_teacher log(p_teacher / p)`, in nats.

    It is a retain loss that keeps the model close to the original one, or SCRUB's forget loss, which must rise. Over tokens
    it is a mean with the token-weighted batch mean of `causal_cross_entropy`. It is at least 0 up to rounding, and 0 with
    gradient 0 where the models agree. The paper's code counts the prompt's tokens too: for that, give labels that mark them
    as counted.

    The fixed model costs one more forward pass per step. A `teacher` that closes over parameters makes them constants of the
    compiled program: measured with 32 million float32 parameters on a CPU (jax 0.10, with either setting of
    `jax_use_simplified_jaxpr_constants`), the first call took 3.1 s instead of 0.2 s and two more copies of them in memory,
    while a step took no longer. For a big model evaluate it once and store its logits in the data,
    `teacher=lambda batch: batch["teacher"]`. With LoRA, use the model with the adapter switched off.

    Args:
      apply: `apply(params, batch) -> logits`, `[batch, classes]` or `[batch, time, vocabulary]`.
      teacher: `teacher(batch) -> logits` of the same shape. Logits of either must be finite.
      label: where the batch holds labels `[batch]` or `[batch, time]`; only their sign is read: -1 is not counted.

    Returns:
      A loss as `cross_entropy` returns it.

    Example:
      >>> import jax.numpy as jnp
      >>> apply = lambda params, batch: batch["x"] @ params
      >>> original = jnp.zeros((2, 4))
      >>> loss = kl(apply, lambda batch: apply(original, batch))
      >>> batch = {"x": jnp.eye(2), "label": jnp.array([0, 1])}
      >>> print(loss(original, batch))
      [0. 0.]

    Source: SCRUB, arXiv 2302.09880, section 3 (`d(x; w)`); as a retain loss TOFU, arXiv 2401.06121, section 3 (KL
    minimisation).
    """
    return Divergence(apply, label, teacher=teacher)
