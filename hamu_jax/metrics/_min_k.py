"""Min-k% and min-k%++: the least likely tokens of a text give away whether it was trained on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hamu_jax.metrics._predictions import Apply, Metric, log_probability, lowest_log


def min_k(apply: Apply, *, fraction: float = 0.2, end_token: bool = True, label: Any = "label") -> Metric:
    """Min-k%: the mean log-probability, in nats, of the least likely tokens of each sequence.

    Text that was trained on has few very unlikely tokens: the higher, the more likely a member. Shi et al. 2024,
    arXiv 2310.16789, equation 1; of `n` tokens `max(1, floor(fraction n))` count.

    Args:
      apply: `apply(params, batch) -> logits [batch, time, vocabulary]`, shifted as for `accuracy`.
      fraction: of the tokens, above 0 and up to 1 (then it is the mean log-probability). The paper's is 0.2, that of
        HAMU's experiments 0.1.
      end_token: whether the last token of each text counts. OpenUnlearning leaves it out: False gives its numbers.
      label: where the batch holds its labels `[batch, time]`: a key or an index; -1 marks tokens that don't count.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding. It raises ValueError, while tracing, if the labels are `[batch]`.

    Raises:
      ValueError: if the fraction is not in that range.

    Example:
      >>> import jax.numpy as jnp
      >>> metric = min_k(lambda params, batch: jnp.log(params), fraction=0.5)
      >>> print(metric(jnp.array([[[0.5, 0.5], [0.875, 0.125]]]), {"label": jnp.array([[0, 1]])}).round(3))
      [-2.079]
    """
    return Metric(apply, label, score=log_probability, pool=_lowest(fraction), end_token=end_token)


def min_k_plus_plus(apply: Apply, *, fraction: float = 0.2, end_token: bool = True, label: Any = "label") -> Metric:
    """Min-k%++: as `min_k`, of log-probabilities standardised over the vocabulary at each position.

    A token's score is `(log p(label) - mu) / sigma`, mean and standard deviation of `log p(v)` for `v` drawn from `p`:
    the higher, the more likely a member. Where all tokens are equally likely it is 0. Zhang et al. 2024, arXiv 2404.02936.

    Args:
      apply: as for `min_k`.
      fraction: as for `min_k`.
      end_token: as for `min_k`.
      label: as for `min_k`.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding. It raises ValueError, while tracing, if the labels are `[batch]`.

    Raises:
      ValueError: if the fraction is not above 0 and at most 1.

    Example:
      >>> import jax.numpy as jnp
      >>> metric = min_k_plus_plus(lambda params, batch: jnp.log(params), fraction=1.0)
      >>> print(metric(jnp.array([[[0.8, 0.2]], [[0.5, 0.5]]]), {"label": jnp.array([[0], [1]])}).round(3))
      [0.5 0. ]
    """
    return Metric(apply, label, score=_standardised, pool=_lowest(fraction), end_token=end_token)


@dataclasses.dataclass(frozen=True)
class _Lowest:
    """The mean of the lowest values of each sequence, a fraction of its real ones, at least one."""

    fraction: float

    def __call__(self, values: Float[Array, "batch time"], real: Bool[Array, "batch time"]) -> Float[Array, " batch"]:
        if values.ndim != 2:  # noqa: PLR2004
            raise ValueError(f"labels: got shape {values.shape}, expected [batch, time]")
        time = values.shape[1]
        # In float64 and rounded down, as the authors' code counts; a table, as how many are real is known on the device only.
        sizes = jnp.asarray(np.maximum(1, (self.fraction * np.arange(time + 1)).astype(int)), jnp.int32)
        size = sizes[jnp.sum(real, axis=1, dtype=jnp.int32)]
        ordered = jnp.sort(jnp.where(real, values, jnp.inf), axis=1)
        total = jnp.sum(jnp.where(jnp.arange(time, dtype=jnp.int32)[None] < size[:, None], ordered, 0.0), axis=1)
        unknown = jnp.any(real & jnp.isnan(values), axis=1)  # sorted last, NaN would go unseen
        return jnp.where(unknown, jnp.nan, total / size.astype(total.dtype))


def _lowest(fraction: float) -> _Lowest:
    """Checks the fraction."""
    if isinstance(fraction, bool) or not 0 < fraction <= 1:
        raise ValueError(f"fraction: got {fraction!r}, expected a number above 0, at most 1")
    return _Lowest(fraction)


def _standardised(logits: Float[Array, "*labels classes"], labels: Int[Array, "*labels"]) -> Float[Array, "*labels"]:
    """The label's log-probability in standard deviations from the prediction's own mean.

    Of logits relative to the largest, which differ from log-probabilities by a constant: those of nearly equal tokens are all
    rounded as numbers of the size of log(vocabulary) are, and of equal ones the score would be rounding over rounding.
    """
    relative = jnp.maximum(logits - jnp.max(logits, axis=-1, keepdims=True), lowest_log(logits))
    shares = jax.nn.softmax(logits)
    mean = jnp.sum(shares * relative, axis=-1, keepdims=True)
    deviations = relative - mean
    spread = jnp.sqrt(jnp.sum(shares * deviations**2, axis=-1))
    of_label = jnp.take_along_axis(deviations, labels[..., None], axis=-1)[..., 0]
    # The score of a token that a one-hot prediction excludes stays finite.
    return of_label / jnp.maximum(spread, jnp.sqrt(jnp.finfo(logits.dtype).tiny))
