"""How much of what is measured on few examples may be chance."""

import math

import numpy as np
from jaxtyping import Float

NORMAL_95 = 1.96  # standard errors on either side of a 95% interval


def auc_interval(area: float, negatives: int, positives: int) -> tuple[float, float]:
    """A 95% interval of an area under the ROC curve, from the standard error of Hanley and McNeil.

    At an area of 0 or 1 their variance is 0, however few the examples are: it is taken half a pair of examples away from them.

    Args:
      area: the measured area.
      negatives: the number of negative examples.
      positives: the number of positive examples.

    Source: J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29-36, equation 1, with exponential distributions.
    """
    half = 0.5 / (negatives * positives)
    inner = min(max(area, half), 1 - half)
    both_positives, both_negatives = inner / (2 - inner), 2 * inner**2 / (1 + inner)
    variance = inner * (1 - inner)
    variance += (positives - 1) * (both_positives - inner**2) + (negatives - 1) * (both_negatives - inner**2)
    reach = NORMAL_95 * math.sqrt(max(variance, 0.0) / (negatives * positives))
    return max(area - reach, 0.0), min(area + reach, 1.0)


def level_error(unseen: Float[np.ndarray, " n"], forget: int) -> float:
    """The standard error of the level: of the difference of two means of unseen losses, of `n` and of `forget` examples.

    A model that was never trained on the forget set differs from the level by as much, because both means are over a sample.

    Args:
      unseen: the unseen losses of the original model.
      forget: the number of forget examples.
    """
    if unseen.size < 2:  # noqa: PLR2004  (one number has no spread)
        return math.nan
    return float(np.std(unseen, ddof=1) * math.sqrt(1 / unseen.size + 1 / forget))
