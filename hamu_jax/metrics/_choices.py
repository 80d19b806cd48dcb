"""Multiple choice: which of several answers does a model think the likeliest?"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hamu_jax._base import validate


def choice_accuracy(losses: Float[Any, "n k"], answer: Int[Any, " n"]) -> float:
    """The share of questions whose right choice has the lowest loss, as WMDP and MMLU count. Of equal ones the first is chosen.

    Args:
      losses: `[n, k]`, minus the log-probability of each choice after its question. WMDP and MMLU sum over the tokens of the
        choice's letter (" A" to " D"); a mean over the tokens of a whole answer is the usual choice where they are written out.
      answer: `[n]`, the index of the right choice.

    Raises:
      ValueError: for losses that are not finite numbers `[n, k]`, or an answer that is not an integer from 0 to `k - 1`.

    Example:
      >>> choice_accuracy([[0.5, 2.0, 3.0, 3.0], [1.0, 0.9, 0.8, 2.0]], [0, 1])
      0.5

    Source: Hendrycks et al. 2021, arXiv 2009.03300 (MMLU); Li et al. 2024, arXiv 2403.03218 (WMDP).
    """
    numbers = validate.numbers("losses", losses, ndim=2)
    right = np.asarray(answer)
    if right.shape != numbers.shape[:1] or not np.issubdtype(right.dtype, np.integer):
        raise ValueError(f"answer: got {right.dtype} of shape {right.shape}, expected integers of shape {numbers.shape[:1]}")
    wrong = np.flatnonzero((right < 0) | (right >= numbers.shape[1]))
    if wrong.size:
        raise ValueError(f"answer[{wrong[0]}]: got {right[wrong[0]]}, expected 0 to {numbers.shape[1] - 1}")
    return float(np.mean(numbers.argmin(axis=1) == right))
