"""Metrics: what a model still knows, of single examples and of whole sets.

Numbers about predictions, one per example, for `evaluate` and `Evaluation(metrics=...)`: `accuracy`, `entropy`, `probability`,
`min_k`, `min_k_plus_plus`, `exact_memorisation`, `extraction_strength`, and beside another model `kl_divergence`, `agreement`.

Functions of numbers and texts on the host: `auc` and `membership_auc` (of what `values` collects); `privacy_leakage` and
`tug_of_war` beside a retrained model; `choice_accuracy`, `rouge`; and TOFU's `rouge_l_recall`, `truth_ratio`,
`mean_truth_ratio`, `tofu_scores`, `model_utility`, `forget_quality`. AUCs, ROUGE and TOFU's numbers need `hamu_jax[metrics]`.
"""

from hamu_jax.metrics._choices import choice_accuracy
from hamu_jax.metrics._membership import MembershipAUC, auc, membership_auc, values
from hamu_jax.metrics._memorisation import exact_memorisation, extraction_strength
from hamu_jax.metrics._min_k import min_k, min_k_plus_plus
from hamu_jax.metrics._predictions import (
    Metric,
    accuracy,
    agreement,
    entropy,
    kl_divergence,
    probability,
)
from hamu_jax.metrics._retrained import privacy_leakage, tug_of_war
from hamu_jax.metrics._rouge import Rouge, rouge, rouge_l_recall
from hamu_jax.metrics._tofu import TofuScores, forget_quality, mean_truth_ratio, model_utility, tofu_scores, truth_ratio

__all__ = [
    "MembershipAUC",
    "Metric",
    "Rouge",
    "TofuScores",
    "accuracy",
    "agreement",
    "auc",
    "choice_accuracy",
    "entropy",
    "exact_memorisation",
    "extraction_strength",
    "forget_quality",
    "kl_divergence",
    "mean_truth_ratio",
    "membership_auc",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "privacy_leakage",
    "probability",
    "rouge",
    "rouge_l_recall",
    "tofu_scores",
    "truth_ratio",
    "tug_of_war",
    "values",
]
