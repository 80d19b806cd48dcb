"""Checks of what `unlearn` is given, before anything is traced; and of numbers that only a step can know."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hamu_jax._base import validate
from hamu_jax._base.history import Row
from hamu_jax._datasets.batches import is_arrays
from hamu_jax._driver.stopping import Status
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import ROWS, Loss, example_weights
from hamu_jax._kernel.hardness import Hardness
from hamu_jax._transform.requests import Requests


def check_groups(groups: Groups | None, state: Any, forget: Any, loss: Loss) -> None:
    """Checks that there are as many groups as the optimizer has requests, each with an example in the forget set that counts.

    Raises:
      ValueError: for another number of requests; or naming the first without an example, if the forget set is known.
    """
    is_requests = lambda node: isinstance(node, Requests)  # noqa: E731
    counts = [len(node.change) for node in jax.tree.leaves(state, is_leaf=is_requests) if is_requests(node)]
    if (groups is None) == bool(counts):
        got, expected = ("None", "Groups") if groups is None else ("Groups", "None")
        with_axis = "with" if groups is None else "without"
        raise ValueError(f"forget_groups: got {got}, expected {expected} for an optimizer {with_axis} forget_axis=0")
    if groups is None:
        return
    if groups.count != counts[0]:
        raise ValueError(f"forget_groups: got count={groups.count}, expected {counts[0]} as in the optimizer's num_requests")
    if not is_arrays(forget):
        return
    size, present = validate.batch("forget", forget), np.zeros(groups.count, bool)
    for begin in range(0, size, ROWS):
        part = jax.tree.map(lambda x, begin=begin: x[begin : begin + ROWS], forget)
        weights = example_weights(loss, part, min(ROWS, size - begin), None)
        present |= np.asarray(groups.present(part, weights))
        if present.all():
            return
    raise ValueError(
        f"forget_groups: got no example of request {int(np.argmin(present))} in forget, expected at least one (that is not "
        f"padding) of each of 0 to {groups.count - 1}"
    )


def outcome(rows: Sequence[Row], start: Any, params: Any, steps: int) -> tuple[Status, str]:
    """Status and reason of a run that took all its steps: whether anything can have come of them."""
    norms = [row["forget_norm"] for row in rows if "forget_norm" in row]
    if norms and not any(norms):
        return "ineffective", (
            f"all {steps} steps were taken, but the forget loss had no gradient at any of them: nothing was forgotten (is the "
            "loss constant, or all of the forget set padding?)"
        )
    if _is_unchanged(start, params):
        return "ineffective", f"all {steps} steps were taken, but no parameter has changed: nothing was forgotten"
    return "completed", f"all {steps} steps were taken"


def _is_unchanged(start: Any, params: Any) -> bool:
    """Whether no parameter has changed, as far as this process can see; ends at the first that has."""
    pairs = zip(jax.tree.leaves(start), jax.tree.leaves(params), strict=True)
    readable = all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves((start, params)))
    return readable and all(np.array_equal(np.asarray(old), np.asarray(new)) for old, new in pairs)


def unusable_budget(hardness: Hardness) -> str | None:
    """In words, a share of the required improvement or a radius that cannot be used; None if there is none."""
    if not jnp.all(jnp.isfinite(hardness.kappa) & jnp.isfinite(hardness.retain_norm) & jnp.isfinite(hardness.forget_norm)):
        return None  # shares and radii are made of these
    for name, values in (("share of the required improvement", hardness.improvement), ("radius", hardness.radius)):
        wrong = ~jnp.isfinite(values)
        if jnp.any(wrong):
            block = int(jnp.argmax(wrong))
            return (
                f"the {name} of block {block} is {float(values[block])}: a schedule or a distribution function returned a "
                "number that is negative or not finite"
            )
    return None
