"""Checks of what `unlearn` is given, before anything is traced; and of numbers that only a step can know."""

import jax.numpy as jnp

from hamu_jax._kernel.hardness import Hardness


def unusable_budget(hardness: Hardness) -> str | None:
    """In words, a share of the required improvement or a radius that cannot be used; None if there is none."""
    for name, values in (("share of the required improvement", hardness.improvement), ("radius", hardness.radius)):
        wrong = ~jnp.isfinite(values)
        if jnp.any(wrong):
            return (
                f"the {name} of block {int(jnp.argmax(wrong))} is {float(values[jnp.argmax(wrong)])}: a schedule or a distribution "
                "function returned a number that is negative or not finite"
            )
    return None
