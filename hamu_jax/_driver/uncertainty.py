"""How much of what is measured on few examples may be chance."""

import math

import numpy as np
from jaxtyping import Float

NORMAL_95 = 1.96  # standard errors on either side of a 95% interval


def auc_interval(area: float, negatives: int, positives: int) -> tuple[float, float]:
    """A 95% interval of an area under the ROC curve, from the standard error of Hanley and McNeil.

    Args:
      area: the measured area.
      negatives: the number of negative examples.
      positives: the number of positive examples.

    Source: J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29-36, equation 1, with exponential distributions.
    """
    both_positives, both_negatives = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (positives - 1) * (both_positives - area**2) + (negatives - 1) * (both_negatives - area**2)
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
