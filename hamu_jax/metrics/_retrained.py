"""How far from a model that was trained without the forget set?"""

from collections.abc import Sequence

import numpy as np

from hamu_jax._base import validate


def tug_of_war(unlearned: Sequence[float], retrained: Sequence[float]) -> float:
    """ToW, tug of war: how near an unlearned model is to a retrained one, on all sets at once.

    `prod_s (1 - |accuracy_s(unlearned) - accuracy_s(retrained)|)`: 1 where all accuracies agree, 0 where one
    is as far off as it can be.

    Args:
      unlearned: accuracies from 0 to 1; those of the forget, the retain and the test set in the paper.
      retrained: those of the retrained model, in the same order.

    Raises:
      ValueError: for no accuracies, different numbers of them, or one that is not from 0 to 1.

    Example:
      >>> tug_of_war([0.5, 1.0, 0.75], [0.75, 1.0, 0.75])
      0.75

    Source: Zhao et al. 2024, "What makes unlearning hard and what to do about it", arXiv 2406.01257, section 3.
    """
    ours, theirs = validate.fractions("unlearned", unlearned), validate.fractions("retrained", retrained)
    if ours.shape != theirs.shape:
        raise ValueError(f"retrained: got {theirs.size} accuracies, expected {ours.size} as in unlearned")
    return float(np.prod(1 - np.abs(ours - theirs)))


def privacy_leakage(auc: float, retrained_auc: float = 0.5) -> float:
    """PrivLeak: how much better an attack separates forgotten from unseen data than it does in a retrained model, in percent.

    `100 (retrained_auc - auc) / (1 - retrained_auc)`. 0: as in the retrained model. Negative, down to -100: the forget set is
    still remembered. Positive: it sticks out as forgotten. MUSE counts its AUC in the other direction, `1 - auc`, in which
    this is the relative difference of the two.

    Args:
      auc: of the unlearned model, the probability that an unseen example looks less like a member than a forgotten one:
        `membership_auc(...).forget_test`. MUSE takes min-k% with `fraction=0.4`.
      retrained_auc: that of the retrained model; without one 0.5, which it has where forgotten and unseen data are alike.

    Raises:
      ValueError: for a number that is not from 0 to 1, or a `retrained_auc` of 1.

    Example:
      >>> privacy_leakage(1.0), privacy_leakage(0.5), privacy_leakage(0.25)
      (-100.0, 0.0, 50.0)

    Source: MUSE, Shi et al. 2024, arXiv 2407.06460, section 3 (C3); `rel_diff` of OpenUnlearning is the same with `1 - auc`.
    """
    value, reference = validate.fractions("auc", [auc])[0], validate.fractions("retrained_auc", [retrained_auc])[0]
    if reference == 1:
        raise ValueError("retrained_auc: got 1, expected a number below 1")
    return float(100 * (reference - value) / (1 - reference))
