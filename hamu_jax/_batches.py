"""Batches for the driver: from arrays, or from any iterable of batches."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hamu_jax import _validate
from hamu_jax._optional import require


def is_arrays(data: Any) -> bool:
    """Whether `data` is one pytree of arrays (a mapping, a tuple, an array) rather than an iterable of batches."""
    return isinstance(data, (Mapping, tuple)) or hasattr(data, "shape") or not isinstance(data, Iterable)


def batches(name: str, data: Any, batch_size: int, seed: tuple[int, int], start: int) -> Iterator[Any]:
    """An endless stream of batches, from batch number `start` on.

    Arrays are shuffled anew each epoch, and epochs follow each other without a gap: every batch is full and every
    example comes equally often. A `batch_size` of the whole set or more gives the whole set each time. An iterable is
    repeated when it ends.

    Raises:
      ValueError: for arrays without examples or of different lengths; while iterating, for an iterable that has ended
        and can't be repeated.
    """
    if not is_arrays(data):
        return itertools.islice(_repeated(name, data), start, None)
    size = _validate.batch(name, data)
    return _shuffled(data, size, min(batch_size, size), seed, start)


def _shuffled(data: Any, size: int, batch_size: int, seed: tuple[int, int], start: int) -> Iterator[Any]:
    """Batches of arrays in an order that is a function of the seed and the batch's number."""
    grain = require("grain", "driver")
    entropy = int(np.random.SeedSequence(seed).generate_state(1)[0])
    rows = grain.MapDataset.range(size).shuffle(seed=entropy).repeat().batch(batch_size)
    for number in itertools.count(start):
        chosen = rows[number]
        yield jax.tree.map(lambda x, chosen=chosen: x[chosen], data)


def _repeated(name: str, data: Iterable[Any]) -> Iterator[Any]:
    """The batches of an iterable, again and again."""
    for epoch in itertools.count():
        count = -1
        for count, batch in enumerate(data):  # noqa: B007  (read after the loop)
            yield batch
        if count < 0:
            ended = "no batches" if epoch == 0 else f"an iterator that ended after {epoch} pass"
            raise ValueError(f"{name}: got {ended}, expected arrays, or an iterable of batches that can be repeated")
