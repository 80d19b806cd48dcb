"""hamu_jax: hardness-aware multi-objective unlearning (HAMU, ICML 2026, arXiv 2606.02119) in JAX."""

from hamu_jax import metrics, objectives, rules, sharding
from hamu_jax._base.history import History
from hamu_jax._base.version import __version__ as __version__
from hamu_jax._datasets.assess import Assessment, assess
from hamu_jax._datasets.evaluate import Evaluation, evaluate
from hamu_jax._driver.checkpoints import Checkpoints
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.stopping import Patience, Stopping, Target
from hamu_jax._driver.trust_region import TrustRegion
from hamu_jax._driver.unlearn import Unlearned, unlearn
from hamu_jax._forget.forget import forget
from hamu_jax._forget.outcome import Change, Forgotten
from hamu_jax._forget.record import DeletionRecord
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.paired import Paired, paired_value_and_grad
from hamu_jax._gradients.per_example import directional, gram, per_example_grads, per_example_norms, weighted_grad
from hamu_jax._kernel.blocks import Stacked, block_labels
from hamu_jax._kernel.hardness import Hardness, Regime
from hamu_jax._transform.combine import combine
from hamu_jax._transform.level import Level
from hamu_jax._transform.state import TransformState, get_hardness, get_requests
from hamu_jax._transform.step_requests import Requests
from hamu_jax._transform.trade_off import TradeOff, trade_off
from hamu_jax._transform.transform import hamu, hardness, transform

__all__ = [
    "Assessment",
    "Change",
    "Checkpoints",
    "DeletionRecord",
    "Evaluation",
    "Forgotten",
    "Groups",
    "Hardness",
    "History",
    "ImplicitStack",
    "KeepBest",
    "Level",
    "Paired",
    "Patience",
    "Regime",
    "Requests",
    "Stacked",
    "Stopping",
    "Target",
    "TradeOff",
    "TransformState",
    "TrustRegion",
    "Unlearned",
    "assess",
    "block_labels",
    "combine",
    "directional",
    "evaluate",
    "forget",
    "get_hardness",
    "get_requests",
    "gram",
    "hamu",
    "hardness",
    "metrics",
    "objectives",
    "paired_value_and_grad",
    "per_example_grads",
    "per_example_norms",
    "rules",
    "sharding",
    "trade_off",
    "transform",
    "unlearn",
    "weighted_grad",
]
