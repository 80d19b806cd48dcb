"""What a step tells of itself: the scalars of a history row."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hamu_jax._driver.trust_region import Trial, mean_of_present
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.implicit_stack_operations import stack_changes
from hamu_jax._gradients.paired import Paired
from hamu_jax._kernel.blocks import partition
from hamu_jax._kernel.hardness import Regime
from hamu_jax._kernel.inner_products import Tree, cross_gram, inner_products
from hamu_jax._transform.state import get_hardness, get_requests


def inner(left: Tree, right: Tree) -> Float[Array, ""]:
    """The inner product of two whole pytrees, in float32 or wider."""
    return inner_products(left, right, partition(left, "global"))[0]


def changes_of_forget(grads: Tree | ImplicitStack, updates: Tree, *, many: bool) -> Float[Array, " m"]:
    """First-order changes of the forget losses: one per request (`many`), or a single one."""
    if isinstance(grads, ImplicitStack):
        return stack_changes(grads, updates)
    if not many:
        return inner(grads, updates)[None]
    row = jax.tree.map(lambda x: x[None], updates)
    return cross_gram(grads, row, partition(updates, "global"))[0, :, 0]


def changes(trial: Trial, *, is_protecting: bool) -> dict[str, Array]:
    """Promised and measured changes: of the retain loss, of the forget losses (mean and smallest), of the protected loss."""
    row: dict[str, Array] = {}
    for name, change in (("promised", trial.promised), ("measured", trial.measured)):
        row |= {f"retain_{name}": change.retain, f"forget_{name}": mean_of_present(change.forget, trial.asked)}
        if change.forget.size > 1:
            row[f"least_{name}"] = jnp.min(jnp.where(trial.asked, change.forget, jnp.inf))
        if is_protecting:  # the request is for minus the loss
            row[f"protected_{name}"] = -change.forget[-1]
    return row


def scalars(values: Paired[Array], state: Any, *, many: bool) -> dict[str, Array]:
    """A history row's scalars: both losses, the hardness of the whole model, the share of blocks in each regime."""
    hardness = get_hardness(state)
    whole = {name.removeprefix("total_"): value for name, value in hardness._asdict().items() if value.ndim == 0}
    regimes = {
        regime.name.lower(): jnp.mean(hardness.regime == regime)
        for regime in (Regime.DIRECT, Regime.RECTIFIED, Regime.COLLINEAR, Regime.INFEASIBLE)
    }
    row = {"retain_loss": values.retain, "forget_loss": values.forget, **whole, **regimes}
    if not many:
        return row
    requests = get_requests(state)
    return row | {"fraction": jnp.min(requests.fraction), "kkt": jnp.max(requests.kkt)}
