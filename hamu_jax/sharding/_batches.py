"""Batches on a mesh: split over devices, filled up to a multiple of them, and read by the process that needs them."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from hamu_jax._base import validate
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Batch, Loss, example_weights
from hamu_jax.sharding._mesh import BATCH_AXES, check_mesh


class Padded(NamedTuple):
    """A batch that was filled up to a multiple of the number of devices.

    Attributes:
      batch: a pytree with a leading example axis.
      weights: float32, 0 for each example that was added, else 1.
    """

    batch: Batch
    weights: Any


def shard_batch(batch: Batch, mesh: Mesh) -> Padded:
    """Places a batch on a mesh, split over `data` and `fsdp`; filled up with examples of weight 0.

    With many processes each passes its share of the batch, all shares of one size.

    Args:
      batch: a pytree of arrays with a leading example axis.
      mesh: from `make_mesh`.

    Returns:
      The batch, and the weight of each example, 1 or 0, for `retain_weights=` and `forget_weights=`.

    Raises:
      ValueError: as `param_shardings`, or for an empty or uneven batch.
    """
    check_mesh(mesh)
    size = validate.batch("batch", batch)
    local = math.prod(mesh.local_mesh.shape[axis] for axis in BATCH_AXES)
    filled = _fill(batch, np.arange(math.ceil(size / local) * local), size)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), filled)


def split_batch(batch: Batch, count: int) -> Padded:
    """Cuts a batch into pieces for `count` devices, `[count, size, ...]`; filled up with examples of weight 0.

    Args:
      batch: a pytree of arrays with a leading example axis.
      count: how many pieces.

    Returns:
      The pieces, and the weight of each example in them, `[count, size]`, 1 or 0.

    Raises:
      ValueError: for an empty or uneven batch, or a count that is not positive.

    >>> split_batch(np.arange(3), 2)
    Padded(batch=array([[0, 1],
           [2, 0]]), weights=array([[1., 1.],
           [1., 0.]], dtype=float32))
    """
    validate.integer("count", count)
    size = validate.batch("batch", batch)
    rows = np.arange(math.ceil(size / count) * count).reshape(count, -1)
    return _fill(batch, rows, size)


def _fill(batch: Batch, rows: Int[np.ndarray, "..."], size: int) -> Padded:
    """The given rows of a batch of `size` examples, with the first example for rows beyond its end."""
    real = rows < size
    return Padded(jax.tree.map(lambda x: x[np.where(real, rows, 0)], batch), real.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class _OfPadded:
    """A loss of `Padded` batches; see `of_padded`."""

    loss: Loss

    def __call__(self, params: Any, padded: Padded) -> Float[Array, " batch"]:
        return self.loss(params, padded.batch)

    def weights(self, padded: Padded) -> Float[Array, " batch"]:
        """The weights of the loss, 0 for the examples that fill the batch up."""
        return example_weights(self.loss, padded.batch, padded.weights.shape[0], padded.weights)


def of_padded(loss: Loss) -> Loss:
    """The same loss for batches that `shard_batch` returned: examples that were added do not count.

    Args:
      loss: `loss(params, batch) -> [batch]`.

    Returns:
      `loss(params, padded) -> [batch]`, whose `weights` are 0 for examples that were added.
    """
    return _OfPadded(loss)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def groups_of_padded(groups: Groups) -> Groups:
    """The same groups for batches that `shard_batch` returned."""
    return dataclasses.replace(groups, of=lambda padded: groups.of(padded.batch))


def place_rows(data: Any, rows: Int[np.ndarray, " batch"], mesh: Mesh, axes: tuple[str, ...] = BATCH_AXES) -> Padded:
    """The chosen rows of a data set, split over the mesh; each process reads only the rows of its devices."""
    pieces = math.prod(mesh.shape[axis] for axis in axes)
    padded = np.pad(rows, (0, -len(rows) % pieces), constant_values=rows[0])
    weights = (np.arange(len(padded)) < len(rows)).astype(np.float32)
    sharding = NamedSharding(mesh, PartitionSpec(axes))

    def placed(x: Any) -> Array:
        def read(index: tuple[slice, ...] | None) -> np.ndarray:
            return np.asarray(x[padded if index is None else padded[index[0]]])

        return jax.make_array_from_callback((len(padded), *np.shape(x)[1:]), sharding, read)

    return Padded(jax.tree.map(placed, data), jax.make_array_from_callback(weights.shape, sharding, weights.__getitem__))
