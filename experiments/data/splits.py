"""What is to be forgotten, from easy to hard: one class, random examples of every class, or a mixture of the two."""

import hashlib
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

SHARE = 0.1  # of everything, at rho 1


class Split(NamedTuple):
    """Two sets of rows without a common row; together all of them.

    Attributes:
      forget: rows to forget `[f]`, in the order in which the paper's code has them.
      retain: all other rows `[r]`.
    """

    forget: Int[np.ndarray, " f"]
    retain: Int[np.ndarray, " r"]

    @property
    def sha256(self) -> str:
        """SHA-256, as hexadecimal digits, of the number of rows and the sorted rows to forget (little-endian int64).

        Two splits of one data set have the same if and only if they forget the same rows, in whatever order.
        """
        numbers = [len(self.forget) + len(self.retain), *np.sort(self.forget)]
        return hashlib.sha256(np.array(numbers, "<i8").tobytes()).hexdigest()


def split(labels: Int[np.ndarray, " n"], forget_class: int, rho: float, seed: int = 42) -> Split:
    """Divides the rows of a training set into those to forget and those to retain.

    `rho = 0` forgets one class (easy: the sets look different), `rho = 1` a random tenth of everything (hard: they look
    alike). Between, `int(rho n_c)` of the class's `n_c` rows are exchanged for rows drawn from all that are not to be
    forgotten then, so that as many are forgotten as the class has; among those drawn there may be some of the class again.

    Args:
      labels: the training set's labels `[n]`.
      forget_class: the class.
      rho: 0 to 1, the paper's mixing ratio (`hard_probability` in its code).
      seed: of numpy's default generator. Unused at `rho = 0`.

    Returns:
      The rows, int64.

    Raises:
      ValueError: for `rho` outside 0 to 1, labels that are not `[n]`, a class that no row has, or if nothing would be left
        to retain.

    Example:
      >>> parts = split(np.array([0, 1, 1, 2, 0, 2]), forget_class=1, rho=0.0)
      >>> print(parts.forget, parts.retain)
      [1 2] [0 3 4 5]

    Source: arXiv 2606.02119, the experiments' easy and hard forget sets; the draws are those of its authors' code.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho: got {rho}, expected a number from 0 to 1")
    if np.ndim(labels) != 1:
        raise ValueError(f"labels: got shape {np.shape(labels)}, expected (n,)")
    of_class = np.asarray(labels) == forget_class
    if not of_class.any():
        there = ", ".join(map(str, np.unique(labels))) or "none, as there are no labels"
        raise ValueError(f"forget_class: got {forget_class}, expected a class that is there ({there})")
    parts = _random(len(labels), seed) if rho == 1 else _mixed(of_class, rho, seed)
    if len(parts.retain) == 0:
        raise ValueError(f"labels: got {len(labels)}, all of which would be forgotten, expected some to retain")
    return parts


def alike(labels: Int[np.ndarray, " n"], like: Int[np.ndarray, " m"]) -> Int[np.ndarray, " rows"]:
    """The most rows whose classes are in the proportions of `like`, of each class the first, in their order.

    Unseen images to compare with a forget or a retain set: for one class the images of that class, for a random set all.

    Args:
      labels: `[n]`, what there is.
      like: `[m]`, the labels of the set.

    Returns:
      Row numbers. Numbers of rows are rounded down, but a class of `like` that there is has one at least.

    Raises:
      ValueError: if there is no row of a class of `like`.

    Example:
      >>> print(alike(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1])))
      [0 3 4]
    """
    classes, wanted = np.unique(like, return_counts=True)
    there = np.array([np.sum(labels == label) for label in classes])
    if not there.all():
        raise ValueError(f"labels: got none of class {classes[there == 0][0]}, expected some of every class of `like`")
    counts = np.maximum(1, np.floor(wanted * np.min(there / wanted) + 1e-9).astype(int))  # 1e-9: 3 * (1 / 3) is 1
    return np.sort(
        np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in zip(classes, counts, strict=True)])
    )


def _random(count: int, seed: int) -> Split:
    """A random tenth, rounded up."""
    order = np.random.default_rng(seed).permutation(count)
    forgotten = math.ceil(SHARE * count)
    return Split(order[:forgotten], order[forgotten:])


def _mixed(of_class: np.ndarray, rho: float, seed: int) -> Split:
    """The class, some of it exchanged."""
    rows, rng = np.flatnonzero(of_class), np.random.default_rng(seed)
    exchanged = int(rho * len(rows))
    if rho > 0:
        rows = rng.permutation(rows)
        others = rng.permutation(np.concatenate([np.flatnonzero(~of_class), rows[:exchanged]]))
        rows = np.concatenate([rows[exchanged:], others[:exchanged]])
    return Split(rows, np.delete(np.arange(len(of_class)), rows))
