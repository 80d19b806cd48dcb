"""Checks of what `unlearn` is given, before anything is traced; and of numbers that only a step can know."""

import jax.numpy as jnp

from hamu_jax._kernel.hardness import Hardness


def unusable_budget(hardness: Hardness) -> str | None:
    """In words, a share of the required improvement or a radius that is negative or not finite; None if there is none."""
    named = (("share of the required improvement", hardness.improvement), ("radius", hardness.radius))
    for name, values in named:
        wrong = ~(jnp.isfinite(values) & (values >= 0))
        if jnp.any(wrong):
            block = int(jnp.argmax(wrong))
            return (
                f"the {name} of block {block} is {float(values[block]):.6g}, expected a finite number of at least 0 (it comes "
                "from a schedule or a distribution function)"
            )
    return None
