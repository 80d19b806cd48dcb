"""Paths of leaves in a pytree, as readable text."""

from typing import Any, TypeAlias

import jax

KeyPath: TypeAlias = tuple[Any, ...]


def path_name(path: KeyPath) -> str:
    """A key path as readable text: `layers/0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"
