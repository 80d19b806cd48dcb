"""hamu_jax: hardness-aware multi-objective unlearning (HAMU, ICML 2026, arXiv 2606.02119) in JAX."""

from hamu_jax import objectives, rules
from hamu_jax._blocks import Stacked, block_labels
from hamu_jax._checkpoints import Checkpoints
from hamu_jax._evaluate import Evaluation, evaluate
from hamu_jax._gradients import Paired, paired_value_and_grad
from hamu_jax._hardness import Hardness, Regime
from hamu_jax._history import History
from hamu_jax._stopping import Patience, Stopping, Target
from hamu_jax._trade_off import TradeOff, trade_off
from hamu_jax._transform import TransformState, combine, get_hardness, hamu, hardness, transform
from hamu_jax._unlearn import Unlearned, unlearn

__all__ = [
    "Checkpoints",
    "Evaluation",
    "Hardness",
    "History",
    "Paired",
    "Patience",
    "Regime",
    "Stacked",
    "Stopping",
    "Target",
    "TradeOff",
    "TransformState",
    "Unlearned",
    "block_labels",
    "combine",
    "evaluate",
    "get_hardness",
    "hamu",
    "hardness",
    "objectives",
    "paired_value_and_grad",
    "rules",
    "trade_off",
    "transform",
    "unlearn",
]
