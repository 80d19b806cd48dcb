"""Sequences of like length together, so that little is padded and only a few shapes occur.

Each shape is one compilation of what runs on it. A step takes a batch to retain and one to forget: with buckets on both sides
it is compiled for every pair of lengths. Put the larger set into buckets, and leave the smaller one as it is.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.data.tokenise import Tokens


class Bucket(NamedTuple):
    """Examples that were cut to one length.

    Attributes:
      rows: where they stand in the data that was divided, `[m]`.
      data: their arrays, `[m, length]`.
    """

    rows: Int[np.ndarray, " m"]
    data: Tokens


def lengths(data: Tokens, count: int, *, multiple: int = 16) -> tuple[int, ...]:
    """The bucket lengths, at most so many, that leave the least padding; multiples of `multiple`, the last fits all.

    Raises:
      ValueError: for a count or multiple below 1.
    """
    for name, number in (("count", count), ("multiple", multiple)):
        if number < 1:
            raise ValueError(f"{name}: got {number}, expected a number of at least 1")
    needed = -(-data["mask"].sum(axis=1) // multiple) * multiple
    sizes, counts = np.unique(np.maximum(needed, multiple), return_counts=True)
    chosen = combinations(sizes[:-1], min(count, len(sizes)) - 1)
    best = min(chosen, key=lambda ends: int(np.dot(counts, _end((*ends, sizes[-1]), sizes))))
    return *(int(end) for end in best), int(sizes[-1])


def divide(data: Tokens, ends: Sequence[int]) -> tuple[Bucket, ...]:
    """Examples by the shortest of these lengths that they fit, which is what they are cut to. Empty buckets are left out.

    Args:
      data: as `tokenise` returns it, `[n, length]`.
      ends: the lengths, as `lengths` returns them.

    Returns:
      The buckets, shortest first; together all examples.

    Raises:
      ValueError: if an example is longer than all lengths.
    """
    size = data["mask"].sum(axis=1)
    ordered = sorted(ends)
    if size.max() > ordered[-1]:
        raise ValueError(f"ends: got {ordered[-1]} as the longest, expected at least {size.max()}, the longest example")
    end = _end(ordered, size)
    members = [(length, np.flatnonzero(end == length)) for length in ordered]
    return tuple(Bucket(rows, _cut(data, rows, length)) for length, rows in members if len(rows))


def by_bucket(function: Callable[[Tokens], Float[np.ndarray, " m"]], buckets: Sequence[Bucket]) -> Float[np.ndarray, " n"]:
    """A number per example, computed bucket by bucket, in the order of the data that was divided.

    Args:
      function: of a bucket's arrays, such as `lambda data: metrics.values(metric, params, data)`. It must give a number for
        every example.
      buckets: as `divide` returns them.

    Returns:
      The numbers `[n]`.
    """
    parts = [np.asarray(function(bucket.data)) for bucket in buckets]
    whole = np.empty(sum(len(bucket.rows) for bucket in buckets), parts[0].dtype)
    for bucket, part in zip(buckets, parts, strict=True):
        whole[bucket.rows] = part
    return whole


@dataclasses.dataclass(frozen=True)
class Batches:
    """An endless stream of full batches, each of one bucket, for `hamu_jax.unlearn`; the same one whenever it is begun.

    In every epoch the buckets are shuffled and cut into batches, whose order is shuffled too. What is left over at the end of a
    bucket goes into the next longer one, and at the end of the last into the next epoch: every example comes equally often.

    Attributes:
      data: as `tokenise` returns it.
      batch_size: examples in a batch; of a smaller data set every batch is the whole of it.
      ends: the lengths of the buckets.
      seed: of the order.
    """

    data: Tokens
    batch_size: int
    ends: Sequence[int]
    seed: int = 0

    def __iter__(self) -> Iterator[Tokens]:
        """The batches."""
        size = min(self.batch_size, len(self.data["tokens"]))
        if size < 1:
            raise ValueError(f"batch_size: got {self.batch_size}, expected a number of at least 1")
        buckets = divide(self.data, self.ends)
        left, epoch = np.empty(0, int), 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            batches, left = _epoch(buckets, left, size, rng)
            for index in rng.permutation(len(batches)):
                yield _cut(self.data, *batches[index])
            epoch += 1


def _epoch(
    buckets: Sequence[Bucket], left: Int[np.ndarray, " k"], size: int, rng: np.random.Generator
) -> tuple[list[tuple[Int[np.ndarray, " batch"], int]], Int[np.ndarray, " l"]]:
    """Rows and lengths of an epoch's batches, and the rows that are left over."""
    batches: list[tuple[Int[np.ndarray, " batch"], int]] = []
    before, waiting = left, np.empty(0, int)
    for bucket in buckets:
        again = before[np.isin(before, bucket.rows)]  # left over by the epoch before: first, so that none waits for long
        rows = np.concatenate([waiting, again, rng.permutation(bucket.rows)])
        full = len(rows) // size * size
        batches += [(part, bucket.data["tokens"].shape[1]) for part in rows[:full].reshape(-1, size)]
        waiting = rows[full:]
    return batches, waiting


def _end(ends: Sequence[int], needed: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The shortest of ascending lengths that is enough."""
    return np.asarray(ends)[np.searchsorted(ends, needed)]


def _cut(data: Tokens, rows: Int[np.ndarray, " m"], end: int) -> Tokens:
    """Some examples, up to some length."""
    return {name: array[rows, :end] for name, array in data.items()}
