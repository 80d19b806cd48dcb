"""Can one tell from a number whether an example was trained on?"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from hamu_jax._base import optional, validate
from hamu_jax._datasets.fixed_size_batches import fixed_size_batches
from hamu_jax._gradients.losses import Loss, check_data, example_weights, per_example


class MembershipAUC(NamedTuple):
    """What `membership_auc` returns: 0.5 says that the two sets can't be told apart by this number.

    Attributes:
      retain_forget: the probability that a forget example looks less like a member than a retain example.
      forget_test: the probability that a test example looks less like a member than a forget example.
    """

    retain_forget: float
    forget_test: float


def values(metric: Loss, params: Any, data: Any, *, batch_size: int = 1024) -> Float[np.ndarray, " examples"]:
    """A loss or a metric of every example of a data set, padding left out.

    Args:
      metric: `metric(params, batch) -> [batch]`, a loss or one of `hamu_jax.metrics`. If it has a method
        `weights(batch) -> [batch]`, examples of weight 0 are left out.
      params: the parameters.
      data: a pytree of arrays with a leading example axis.
      batch_size: examples evaluated at once.

    Returns:
      The values, in the order of the examples.

    Raises:
      ValueError: for no examples, leaves of different lengths, labels that are wrong (if the metric can check them), or a
        metric that does not return `[batch]`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(values(lambda w, batch: (batch - w) ** 2, 1.0, jnp.array([1.0, 3.0, 6.0]), batch_size=2))
      [ 0.  4. 25.]
    """
    validate.integer("batch_size", batch_size)
    validate.function("metric", metric, "metric(params, batch) -> [batch]")
    found: list[np.ndarray] = []
    for part, real in fixed_size_batches(data, check_data("data", data, metric, params), batch_size):
        numbers, weights = (np.asarray(x)[:real] for x in _values(metric, params, part))
        found.append(numbers[weights != 0])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _values(metric: Loss, params: Any, batch: Any) -> tuple[Array, Array]:
    """The values of a batch and their weights."""
    size = validate.batch("data", batch)
    return per_example(metric, params, batch, size, "data", function="metric"), example_weights(metric, batch, size, None)


def auc(negatives: Float[Any, " n"], positives: Float[Any, " m"]) -> float:
    """The area under the ROC curve: the probability that a positive has the larger value, ties counted half.

    0.5: no difference in rank. Below 0.5: the negatives are the larger ones. All values equal: 0.5.

    Args:
      negatives: `[n]` values, say the losses of members.
      positives: `[m]` values, say the losses of non-members.

    Returns:
      A number from 0 to 1.

    Raises:
      ValueError: if either is empty, not one-dimensional, or holds a number that is not finite.
      ImportError: naming the extra, if scikit-learn is missing.

    Example:
      >>> auc([0.1, 0.4], [0.4, 0.9])
      0.875
    """
    low, high = validate.numbers("negatives", negatives), validate.numbers("positives", positives)
    metrics = optional.require("sklearn.metrics", "metrics")
    labels = np.repeat([0, 1], [low.size, high.size])
    return float(metrics.roc_auc_score(labels, np.concatenate([low, high])))


def membership_auc(
    retain: Float[Any, " r"], forget: Float[Any, " f"], test: Float[Any, " t"], *, members: Literal["low", "high"] = "low"
) -> MembershipAUC:
    """Both AUCs of the HAMU paper's experiments (arXiv 2606.02119): forget against retain, and test against forget.

    A model retrained without the forget set gives the values to compare with: they are rarely exactly 0.5.

    Args:
      retain: `[r]` values of examples that were trained on and kept.
      forget: `[f]` values of those that should be forgotten.
      test: `[t]` values of examples never trained on.
      members: which values members have: `"low"` for losses, `"high"` for log-probabilities, as of `min_k`.

    Returns:
      The two probabilities. Forgotten like never seen: `retain_forget` high, `forget_test` at 0.5. Still remembered:
      `retain_forget` at 0.5, `forget_test` high. `forget_test` far below 0.5 gives the forget set away as well: it looks less
      like a member than what was never seen.

    Raises:
      ValueError: if an array is empty, not one-dimensional or not finite, or for another word.
      ImportError: naming the extra, if scikit-learn is missing.

    Example:
      >>> membership_auc(retain=[0.1, 0.2], forget=[0.5, 0.9], test=[0.5, 0.9])
      MembershipAUC(retain_forget=1.0, forget_test=0.5)
    """
    if members not in ("low", "high"):
        raise ValueError(f"members: got {members!r}, expected 'low' or 'high'")
    sign = 1.0 if members == "low" else -1.0
    named = {"retain": retain, "forget": forget, "test": test}
    kept, forgotten, unseen = (sign * validate.numbers(name, given) for name, given in named.items())
    return MembershipAUC(auc(kept, forgotten), auc(forgotten, unseen))
