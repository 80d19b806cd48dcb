"""The options that every measurement shares."""

from typing import Any

from hamu_jax import rules
from hamu_jax._base import validate
from hamu_jax._kernel.budget import NAMES

WRAPPERS = "wrappers such as optax.flatten, masked, partition and MultiSteps see the retain gradient only"


def check_rule(name: str, rule: Any) -> None:
    """Checks that a rule is one, and not the function that makes it (`rules.gru` without parentheses)."""
    if not isinstance(rule, rules.Rule):
        made_by = getattr(rule, "__name__", "")
        called = f": call it, {name}={made_by}()" if made_by in rules.__all__ else ""
        raise TypeError(
            f"{name}: got {validate.shown(rule)}, expected a Rule, as the functions of hamu_jax.rules return{called}"
        )


def check_options(blocks: Any, distribution: Any, clip_norm: Any) -> float | None:
    """Checks the options that every measurement shares; returns the clipping norm as a plain number."""
    if not callable(blocks):
        validate.choice("blocks", blocks, ("leaf", "global"), "'leaf', 'global' or a function from a key path to a label")
    if not callable(distribution):
        validate.choice("distribution", distribution, NAMES, f"one of {', '.join(NAMES)}, or a function")
    return None if clip_norm is None else validate.constant("clip_norm", clip_norm, positive=True)
