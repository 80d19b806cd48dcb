"""The options that every measurement shares."""

from typing import Any

from hamu_jax._base import validate
from hamu_jax._kernel.budget import NAMES


def check_options(blocks: Any, distribution: Any, clip_norm: Any) -> None:
    """Checks the options that every measurement shares."""
    if clip_norm is not None:
        validate.number("clip_norm", clip_norm, positive=True)
    if not callable(blocks) and blocks not in ("leaf", "global"):
        raise ValueError(f"blocks: got {blocks!r}, expected 'leaf', 'global' or a function from a key path to a label")
    if not callable(distribution) and distribution not in NAMES:
        raise ValueError(f"distribution: got {distribution!r}, expected one of {', '.join(NAMES)}, or a function")
