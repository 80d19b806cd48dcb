"""Splits a data set into batches of one size, for loops over whole sets on the host."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hamu_jax._gradients.losses import pad
from hamu_jax.sharding._batches import place_rows
from hamu_jax.sharding._mesh import AXES


def fixed_size_batches(data: Any, size: int, batch_size: int | None, mesh: Mesh | None = None) -> Iterator[tuple[Any, int]]:
    """Batches of one length, the last one filled up, with the number of real examples; split over a mesh's devices."""
    length = size if batch_size is None else min(batch_size, size)
    for begin in range(0, size, length):
        real = min(length, size - begin)
        if mesh is None:
            batch = jax.tree.map(lambda x, begin=begin: x[begin : begin + length], data)
            yield pad(batch, length - real), real
        else:
            rows = np.arange(begin, begin + length)
            yield place_rows(data, np.where(rows < size, rows, begin), mesh, AXES).batch, real
