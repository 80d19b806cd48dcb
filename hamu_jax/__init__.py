"""hamu_jax: hardness-aware multi-objective unlearning (HAMU, ICML 2026, arXiv 2606.02119) in JAX."""

from hamu_jax import metrics, objectives, rules, sharding
from hamu_jax._assess import Assessment, assess
from hamu_jax._blocks import Stacked, block_labels
from hamu_jax._checkpoints import Checkpoints
from hamu_jax._evaluate import Evaluation, evaluate
from hamu_jax._groups import Groups
from hamu_jax._guarantee import Guarantee
from hamu_jax._hardness import Hardness, Regime
from hamu_jax._history import History
from hamu_jax._implicit import ImplicitStack
from hamu_jax._paired import Paired, paired_value_and_grad
from hamu_jax._per_example import directional, gram, per_example_grads, weighted_grad
from hamu_jax._requests import Requests
from hamu_jax._state import TransformState, get_hardness, get_requests
from hamu_jax._stopping import Patience, Stopping, Target
from hamu_jax._trade_off import TradeOff, trade_off
from hamu_jax._transform import combine, hamu, hardness, transform
from hamu_jax._unlearn import Unlearned, unlearn

__all__ = [
    "Assessment",
    "Checkpoints",
    "Evaluation",
    "Groups",
    "Guarantee",
    "Hardness",
    "History",
    "ImplicitStack",
    "Paired",
    "Patience",
    "Regime",
    "Requests",
    "Stacked",
    "Stopping",
    "Target",
    "TradeOff",
    "TransformState",
    "Unlearned",
    "assess",
    "block_labels",
    "combine",
    "directional",
    "evaluate",
    "get_hardness",
    "get_requests",
    "gram",
    "hamu",
    "hardness",
    "metrics",
    "objectives",
    "paired_value_and_grad",
    "per_example_grads",
    "rules",
    "sharding",
    "trade_off",
    "transform",
    "unlearn",
    "weighted_grad",
]
