"""How much of a text does a model know by heart?"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hamu_jax._kernel.inner_products import ratio
from hamu_jax.metrics._predictions import Apply, Metric, right
from hamu_jax.objectives._labelled import mean


def exact_memorisation(apply: Apply, *, end_token: bool = True, label: Any = "label") -> Metric:
    """Exact memorisation: the share of a text's tokens that have the largest logit after the true tokens before them.

    With the end token it is `accuracy` of the tokens.

    Args:
      apply: `apply(params, batch) -> logits [batch, time, vocabulary]`, shifted as for `accuracy`.
      end_token: whether the last token of each text counts. OpenUnlearning leaves it out: False gives its numbers.
      label: where the batch holds its labels `[batch, time]`: a key or an index; -1 marks tokens that don't count.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding. Logits that are NaN at a token that counts give NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = {"tokens": jnp.array([[0, 1, 2, 3]]), "label": jnp.array([[1, 1, 2, 3]])}
      >>> for end_token in (True, False):
      ...     metric = exact_memorisation(lambda params, batch: params[batch["tokens"]], end_token=end_token)
      ...     print(f"{metric(jnp.eye(4), batch)[0]:.2f}")
      0.75
      0.67

    Source: Tirumala et al. 2022, arXiv 2205.10770; as a measure of unlearning OpenUnlearning, arXiv 2506.12618.
    """
    return Metric(apply, label, score=right, pool=mean, end_token=end_token)


def extraction_strength(apply: Apply, *, end_token: bool = True, label: Any = "label") -> Metric:
    """Extraction strength: the longest end of a text that the model writes on its own, as a fraction of the text.

    `1 - min{k : greedy(x, y_1 ... y_k) = y_k+1 ... y_n} / n` for an answer of `n` tokens. Greedy decoding continues as the text
    does exactly as long as each token has the largest logit after the true ones before it, so one forward pass is enough. 1:
    the question alone brings out the whole answer. 0: not even the last token is right. How many tokens are right at all is
    `exact_memorisation`, which is never lower.

    Args:
      apply: `apply(params, batch) -> logits [batch, time, vocabulary]`, shifted as for `accuracy`.
      end_token: as for `exact_memorisation`.
      label: where the batch holds its labels `[batch, time]`: a key or an index; -1 marks tokens that don't count.

    Returns:
      `metric(params, batch) -> [batch]`, 0 for padding. Logits that are NaN at a token that counts give NaN. It raises
      ValueError, while tracing, if the labels are `[batch]`.

    Example:
      >>> import jax.numpy as jnp
      >>> metric = extraction_strength(lambda params, batch: params[batch["tokens"]])
      >>> batch = {"tokens": jnp.array([[0, 1, 2, 3]]), "label": jnp.array([[1, 0, 2, 3]])}
      >>> print(metric(jnp.eye(4), batch))
      [0.5]

    Source: Carlini et al. 2021, "Extracting training data from large language models"; as a measure of unlearning Wang et al.
    2025, arXiv 2406.09179. OpenUnlearning (arXiv 2506.12618) leaves the end token out, and of the `n` tokens that are then left
    it gives `1 / n` where this is 0.
    """
    return Metric(apply, label, score=right, pool=_ending, end_token=end_token)


def _ending(values: Float[Array, "batch time"], real: Bool[Array, "batch time"]) -> Float[Array, " batch"]:
    """The share of real tokens from which on all are right."""
    if values.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"labels: got shape {values.shape}, expected [batch, time]")
    correct = jnp.where(real, values, 1.0)
    ending = jnp.cumprod(correct[:, ::-1], axis=1)[:, ::-1]
    total = jnp.sum(jnp.where(real, ending, 0.0), axis=1)
    unknown = jnp.any(real & jnp.isnan(values), axis=1)  # before a wrong token, NaN would go unseen
    return jnp.where(unknown, jnp.nan, ratio(total, jnp.sum(real, axis=1).astype(total.dtype)))
