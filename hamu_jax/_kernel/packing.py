"""Many small tensors stacked into few: the compile time of an update grows with the number of tensors, not with their size.

A single tensor takes some five loops, each compiled separately: a tenth of a second. Stacks of one size share their
compiled kernels, and so do the tensors that are cut out of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from hamu_jax._kernel.blocks import Partition
from hamu_jax._kernel.cpu_reductions import is_single_cpu
from hamu_jax._kernel.inner_products import Tree

LARGEST = 1 << 16  # numbers in a tensor: a stack is a copy, which costs more than it saves for larger ones
FEWEST = 8  # tensors in a stack: with fewer it has about as many kernels as it saves
MOST = 64  # tensors in a stack: 5,000 tensors compiled in 22, 16 and 14 s of CPU time for 32, 64 and 128


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which leaves of a pytree are stacked, and which stay single; static, computed from types alone."""

    groups: tuple[tuple[int, ...], ...]

    def pack(self, tree: Tree) -> list[Array]:
        """One array a group: several leaves on a new leading axis, or the leaf itself."""
        leaves = jax.tree.leaves(tree)
        return [leaves[group[0]] if len(group) == 1 else jnp.stack([leaves[i] for i in group]) for group in self.groups]

    def unpack(self, packed: Any, like: Tree, nonzero: Bool[Array, ""]) -> Tree:
        """The pytree from which `pack` made `packed`, with the structure of `like`.

        Args:
          packed: a list, one array per group.
          like: a pytree of the same structure.
          nonzero: where it is false, every array of `packed` is zero.
        """
        stacks = [x for group, x in zip(self.groups, packed, strict=True) if len(group) > 1]
        parts = iter(_unstack(stacks, nonzero) if stacks and is_single_cpu() else map(jnp.unstack, stacks))
        leaves: dict[int, Array] = {}
        for group, x in zip(self.groups, packed, strict=True):
            leaves |= zip(group, next(parts) if len(group) > 1 else [x], strict=True)
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[i] for i in range(len(leaves))])

    def partition(self, blocks: Partition) -> Partition:
        """The same blocks for what `pack` gives: a stack's leading axis counts the slots of its leaves."""
        slots = tuple(tuple(slot for i in group for slot in blocks.slots[i]) for group in self.groups)
        stacked = tuple(blocks.stacked[group[0]] if len(group) == 1 else True for group in self.groups)
        return dataclasses.replace(blocks, slots=slots, stacked=stacked)


def packing(retain: Tree, forget: Tree, blocks: Partition) -> Packing:
    """Stacks small leaves of one slot if they agree in both trees: in shape, dtype, and what JAX knows of their devices.

    Where `jit` alone splits arrays over devices nothing is known; leaves of one shape are then usually split
    alike, and a new leading axis moves nothing.
    """
    alike: dict[object, list[int]] = {}
    for i, (x, y, stacked) in enumerate(zip(jax.tree.leaves(retain), jax.tree.leaves(forget), blocks.stacked, strict=True)):
        kind = i if stacked or x.size > LARGEST else (jax.typeof(x), jax.typeof(y))
        alike.setdefault(kind, []).append(i)
    return Packing(tuple(stack for group in alike.values() for stack in _stacks(group)))


def _stacks(group: list[int]) -> list[tuple[int, ...]]:
    """Cuts a group into stacks of as nearly one size as possible: each size is compiled separately."""
    size = min(range(MOST, MOST // 2, -1), key=lambda size: len(group) % size if len(group) > MOST else 0)
    size = size if len(group) >= FEWEST else 1
    return [tuple(group[i : i + size]) for i in range(0, len(group), size)]


def _unstack(stacks: list[Array], nonzero: Bool[Array, ""]) -> list[list[Array]]:
    """`jnp.unstack` of every stack, with one compiled kernel per shape instead of one per tensor.

    XLA's CPU compiler fuses the computation of a stack into each slice of it, and compiles a slice at every position
    separately. It does not fuse across a conditional, and slices at positions that are known only when the program runs
    share a kernel. So the stacks and the positions are results of a conditional; in its other branch all stacks are zero,
    and any position is right.
    """
    positions = range(max(len(x) for x in stacks))
    values, indices = jax.lax.cond(
        nonzero,
        lambda: (stacks, [jnp.uint32(i) for i in positions]),
        lambda: ([jnp.zeros_like(x) for x in stacks], [jnp.uint32(0) for _ in positions]),
    )
    return [[jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for i in indices[: len(x)]] for x in values]
