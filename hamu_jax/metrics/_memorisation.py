"""How much of a text must be given before a model writes the rest on its own?"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hamu_jax._kernel.inner_products import ratio
from hamu_jax.metrics._predictions import Apply, Metric, right


def extraction_strength(apply: Apply, *, label: Any = "label") -> Metric:
    """Extraction strength: the longest end of a text that the model writes on its own, as a fraction of the text.

    `1 - min{k : greedy(x, y_1 ... y_k) = y_k+1 ... y_n} / n` for an answer of `n` tokens. Greedy decoding continues as the text
    does exactly as long as each token has the largest logit after the true ones before it, so one forward pass is enough. 1:
    the question alone brings out the whole answer. 0: not even the last token is right. How many tokens are right at all is
    `accuracy`, which is never lower.

    Args:
      apply: `apply(params, batch) -> logits [batch, time, vocabulary]`, shifted as for `accuracy`.
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
    2025, arXiv 2406.09179. The code of OpenUnlearning (arXiv 2506.12618) gives `1 / n` where this is 0.
    """
    return Metric(apply, label, score=right, pool=_ending)


def _ending(values: Float[Array, "batch time"], real: Bool[Array, "batch time"]) -> Float[Array, " batch"]:
    """The share of real tokens from which on all are right."""
    if values.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"labels: got shape {values.shape}, expected [batch, time]")
    correct = jnp.where(real, values, 1.0)
    ending = jnp.cumprod(correct[:, ::-1], axis=1)[:, ::-1]
    total = jnp.sum(jnp.where(real, ending, 0.0), axis=1)
    unknown = jnp.any(real & jnp.isnan(values), axis=1)  # before a wrong token, NaN would go unseen
    return jnp.where(unknown, jnp.nan, ratio(total, jnp.sum(real, axis=1).astype(total.dtype)))
