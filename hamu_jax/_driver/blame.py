"""Why a step was not finite, in words."""

from typing import Any

import jax
import jax.numpy as jnp

from hamu_jax._base.key_paths import path_name
from hamu_jax._driver.carry import Carry
from hamu_jax._driver.settings_checks import unusable_budget
from hamu_jax._driver.step import Step
from hamu_jax._driver.trust_region import mean_of_present
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.implicit_stack_operations import stack_sum
from hamu_jax._kernel.blocks import partition
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.state import get_hardness


def blame(step: Step, carry: Carry, retain: Any, forget: Any) -> str:
    """Says which tensor is not finite at these parameters, on these batches, by repeating the step outside jit."""
    values, grads, present, _, updates, state = step.propose(carry, retain, forget)
    of_loss = (
        ("retain", values.retain, grads.retain),
        ("forget", mean_of_present(values.forget, present), _whole(grads.forget)),
    )
    for name, value, grad in of_loss:
        where = _first_nonfinite(grad)
        if where is not None or not jnp.isfinite(value):
            tensor = f"its gradient is not finite in '{where}'" if where else "its gradient is finite"
            return f"the {name} loss is {float(value):.6g} and {tensor}"
    where = _first_nonfinite(updates)
    if where is not None:
        return f"both gradients are finite, but the optimizer's update is not, in '{where}'"
    return unusable_budget(get_hardness(state)) or "the gradients are finite, but their inner products overflow"


def _whole(grads: Tree | ImplicitStack) -> Tree:
    """The gradients themselves; for an implicit stack the sum of its rows."""
    if not isinstance(grads, ImplicitStack):
        return grads
    blocks = partition(grads.params, "global")
    return stack_sum(grads, jnp.ones((1, grads.count), accumulation_dtype(grads.params)), blocks)


def _first_nonfinite(tree: Tree) -> str | None:
    """The path of the first leaf with an entry that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.all(jnp.isfinite(leaf)):
            return path_name(path)
    return None
