"""Metrics: what a model still knows, of single examples and of whole sets.

Numbers about predictions, one per example, for `evaluate` and `Evaluation(metrics=...)`: `accuracy`, `entropy`, `probability`,
`min_k`, `min_k_plus_plus`, `extraction_strength`, and beside another model `kl_divergence`, `agreement`.

Functions of arrays of numbers on the host: `auc` and `membership_auc` (of what `values` collects), and TOFU's
`rouge_l_recall`, `truth_ratio`, `tofu_scores`, `model_utility`, `forget_quality`. These need `hamu_jax[metrics]`.
"""

from hamu_jax.metrics._membership import MembershipAUC, auc, membership_auc, values
from hamu_jax.metrics._memorisation import extraction_strength
from hamu_jax.metrics._min_k import min_k, min_k_plus_plus
from hamu_jax.metrics._predictions import (
    Metric,
    accuracy,
    agreement,
    entropy,
    kl_divergence,
    probability,
)
from hamu_jax.metrics._tofu import TofuScores, forget_quality, model_utility, rouge_l_recall, tofu_scores, truth_ratio

__all__ = [
    "MembershipAUC",
    "Metric",
    "TofuScores",
    "accuracy",
    "agreement",
    "auc",
    "entropy",
    "extraction_strength",
    "forget_quality",
    "kl_divergence",
    "membership_auc",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "probability",
    "rouge_l_recall",
    "tofu_scores",
    "truth_ratio",
    "values",
]
