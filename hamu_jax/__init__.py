"""hamu_jax: hardness-aware multi-objective unlearning (HAMU, ICML 2026, arXiv 2606.02119) in JAX."""

from hamu_jax import objectives, rules
from hamu_jax._blocks import Stacked, block_labels
from hamu_jax._gradients import Paired, paired_value_and_grad
from hamu_jax._hardness import Hardness, Regime
from hamu_jax._transform import TransformState, combine, get_hardness, hamu, transform

__all__ = [
    "Hardness",
    "Paired",
    "Regime",
    "Stacked",
    "TransformState",
    "block_labels",
    "combine",
    "get_hardness",
    "hamu",
    "objectives",
    "paired_value_and_grad",
    "rules",
    "transform",
]
