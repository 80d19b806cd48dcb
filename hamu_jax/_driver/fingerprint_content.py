"""The content of arrays and texts as a hash."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

UNKNOWN = "unknown"
LENGTH = 32  # hexadecimal digits of a hash: 128 bits
LONGEST = 80  # characters of a value that is kept as it is
CHUNK = 2**26  # bytes that are read at once from an array that is not in memory


def digest(data: str | bytes) -> str:
    """A short hash."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:LENGTH]


def short(text: str) -> str:
    """A text, or its hash if it is long."""
    return text if len(text) <= LONGEST else digest(text)


def dtype_name(leaf: Any) -> str:
    """The dtype of a leaf, of a Python number too."""
    return str(leaf.dtype) if hasattr(leaf, "dtype") else str(np.asarray(leaf).dtype)


def size_of(leaf: Any) -> int:
    """How many numbers a leaf has, without reading it."""
    return math.prod(np.shape(leaf))


def content(leaf: Any) -> str:
    """The hash of an array's numbers; unknown where this process cannot read them all."""
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:
            return UNKNOWN
        leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    try:
        return hash_of_array(leaf)[:LENGTH]
    except Exception:  # whatever an array of another library raises: it is then not known
        return UNKNOWN


def hash_of_array(array: Any) -> str:
    """The SHA-256 of an array's bytes."""
    digest = hashlib.sha256()
    for piece in _pieces(array):
        digest.update(memoryview(np.ascontiguousarray(piece).reshape(-1).view(np.uint8)))  # pyright: ignore[reportArgumentType]: an array is a buffer
    return digest.hexdigest()


def _pieces(leaf: Any) -> Iterator[np.ndarray]:
    """An array piece by piece, so that one that is not in memory (a memory map, a file) is never read whole."""
    shape, size = np.shape(leaf), size_of(leaf)
    if isinstance(leaf, (jax.Array, np.generic)) or not hasattr(leaf, "shape") or size == 0 or not shape:
        yield np.asarray(leaf)
        return
    whole: Any = np.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    rows = max(1, CHUNK * shape[0] // (size * whole.dtype.itemsize))
    for begin in range(0, shape[0], rows):
        yield np.asarray(whole[begin : begin + rows])
