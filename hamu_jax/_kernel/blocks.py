"""Blocks: which tensors share one unlearning problem."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._base.key_paths import KeyPath, path_name


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A label for a leaf whose leading axis counts blocks (scanned layers stack many tensors in one leaf).

    A leaf of shape `[n, ...]` labelled `Stacked("mlp")` belongs to the blocks `mlp/0` to `mlp/n-1`. Leaves with the
    same label must agree on `n`.

    Attributes:
      label: the name before the slash.
    """

    label: Hashable


Blocks: TypeAlias = Literal["leaf", "global"] | Callable[[KeyPath], Hashable | Stacked]


@dataclasses.dataclass(frozen=True)
class Partition:
    """The blocks of a pytree's leaves; static, hashable, computed from shapes alone.

    A leaf fills one slot, or `n` slots when its leading axis counts blocks. Reductions give one number per slot, and
    slots are summed into blocks; and over the devices of `shard_axis`, if each holds a part of every leaf.
    """

    labels: tuple[str, ...]
    slots: tuple[tuple[int, ...], ...]
    stacked: tuple[bool, ...]
    shard_axis: device_axes.AxisName | None = None

    def sum(self, leaves: Sequence[Float[Array, "..."]]) -> Float[Array, "blocks ..."]:
        """Sums per-leaf numbers, `[...]` or `[n, ...]` where stacked, into one per block."""
        shares = device_axes.total_of_shards(list(leaves), self.shard_axis)
        values = jnp.concatenate([x if stacked else x[None] for x, stacked in zip(shares, self.stacked, strict=True)])
        block_of_slot = np.array([block for slot in self.slots for block in slot], int)
        order = np.argsort(block_of_slot, kind="stable")
        if np.any(np.diff(order) != 1):
            values = values[jnp.asarray(order)]
        if values.shape[0] != len(self.labels):  # else every slot is a block of its own
            ids = jnp.asarray(block_of_slot[order])
            values = jax.ops.segment_sum(values, ids, num_segments=len(self.labels), indices_are_sorted=True)
        return device_axes.total(values, self.shard_axis)

    def spread(self, values: Float[Array, " blocks"], leaves: Sequence[Array]) -> list[Float[Array, "..."]]:
        """Gives every leaf its block's number, shaped to broadcast against the leaf."""
        spread = []
        for leaf, slot, stacked in zip(leaves, self.slots, self.stacked, strict=True):
            if stacked:
                spread.append(values[jnp.asarray(slot)].reshape((-1,) + (1,) * (leaf.ndim - 1)))
            else:
                spread.append(values[slot[0]])
        return spread


def partition(tree: optax.Params, blocks: Blocks, shard_axis: device_axes.AxisName | None = None) -> Partition:
    """Assigns the leaves of `tree` to blocks, in order of first appearance.

    Raises:
      ValueError: for an unknown name, a tree without leaves, a stacked 0-d leaf, or stacked leaves of one label whose
        leading axes differ.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError("params: got a pytree without arrays, expected at least one")
    index: dict[Hashable, int] = {}
    names: list[str] = []
    slots: list[tuple[int, ...]] = []
    stacked: list[bool] = []
    stack_size: dict[Hashable, int] = {}
    for path, leaf in leaves:
        label = _label(path, blocks)
        is_stacked = isinstance(label, Stacked)
        keys = _stack_keys(label, path, leaf, stack_size) if isinstance(label, Stacked) else [(label, str(label))]
        for key, name in keys:
            if key not in index:
                index[key] = len(index)
                names.append(name)
        slots.append(tuple(index[key] for key, _ in keys))
        stacked.append(is_stacked)
    return Partition(tuple(names), tuple(slots), tuple(stacked), shard_axis)


def block_labels(params: optax.Params, blocks: Blocks = "leaf") -> tuple[str, ...]:
    """The names of the blocks of `params`, in the order of every per-block array.

    Args:
      params: the parameters, or a pytree of `jax.ShapeDtypeStruct` like them.
      blocks: as in `hamu_jax.transform`.

    Returns:
      One name per block.

    Raises:
      ValueError: for an unknown `blocks` or labels that do not fit the leaves.

    >>> import jax.numpy as jnp
    >>> block_labels({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
    ('bias', 'kernel')
    """
    return partition(params, blocks).labels


def _label(path: KeyPath, blocks: Blocks) -> Hashable | Stacked:
    """The label of one leaf."""
    if callable(blocks):
        return blocks(path)
    validate.choice("blocks", blocks, ("leaf", "global"), "'leaf', 'global' or a function from a key path to a label")
    return path_name(path) if blocks == "leaf" else "global"


def _stack_keys(label: Stacked, path: KeyPath, leaf: Any, sizes: dict[Hashable, int]) -> list[tuple[Hashable, str]]:
    """The keys and names of the blocks that a stacked leaf's leading axis counts."""
    if len(leaf.shape) == 0:
        raise ValueError(f"blocks: got Stacked({label.label!r}) for the 0-d leaf '{path_name(path)}', expected a leading axis")
    size = sizes.setdefault(label.label, leaf.shape[0])
    if size != leaf.shape[0]:
        raise ValueError(
            f"blocks: got a leading axis of {leaf.shape[0]} at '{path_name(path)}', expected {size} as in the other "
            f"leaves labelled Stacked({label.label!r})"
        )
    return [((Stacked, label.label, i), f"{label.label}/{i}") for i in range(size)]
