"""Where a leaf lies in a pytree, as people write it."""

from typing import Any, TypeAlias

import jax

KeyPath: TypeAlias = tuple[Any, ...]


def path_name(path: KeyPath) -> str:
    """A key path as people write it: `layers/0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"
