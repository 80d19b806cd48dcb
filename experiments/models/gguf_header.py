"""Whether a GGUF file is what its own numbers say: checked before gguf's reader, which believes them, is let at it."""

import mmap
import struct
from pathlib import Path

from experiments.data.text_files import check_content

VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
DIMENSIONS = 4  # of a tensor, at most, as llama.cpp has it


def check_header(path: Path) -> None:
    """Walks through a file's metadata and descriptions of tensors.

    Raises:
      ValueError: naming the file, for one that is no GGUF file, is cut off, or has lengths beyond its end.
    """
    with path.open("rb") as file:
        start = file.read(64)
        check_content(path, start)
        if len(start) < 24 or start[:4] != b"GGUF":  # noqa: PLR2004  (the first numbers of every file)
            raise ValueError(f"{path}: got {start[:4]!r} as its first bytes, expected a GGUF file, which begins with b'GGUF'")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _Walk(path, content).check()


class _Walk:
    """A place in a file, which moves on."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._at = 4

    def check(self) -> None:
        """From the version to the last tensor's description."""
        version = self._number("<I")
        if version not in VERSIONS:
            raise ValueError(f"{self._path}: got GGUF of version {version}, expected {' or '.join(map(str, VERSIONS))}")
        tensors, values = self._number("<Q"), self._number("<Q")
        for _ in range(self._fitting(values, 12, "metadata fields")):
            self._skip(self._number("<Q"), "a name")
            self._value(self._number("<I"), nested=False)
        for _ in range(self._fitting(tensors, 24, "tensors")):
            self._skip(self._number("<Q"), "a name")
            dimensions = self._number("<I")
            if dimensions > DIMENSIONS:
                raise ValueError(f"{self._path}: got a tensor of {dimensions} dimensions, expected at most {DIMENSIONS}")
            self._skip(8 * dimensions + 12, "a tensor")

    def _value(self, kind: int, *, nested: bool) -> None:
        """A value of metadata."""
        if kind == STRING:
            self._skip(self._number("<Q"), "a text")
        elif kind == ARRAY and not nested:
            inner, count = self._number("<I"), self._number("<Q")
            if inner in SIZES:
                self._skip(SIZES[inner] * count, f"an array of {count} values")
                return
            for _ in range(self._fitting(count, 8, "values of an array")):
                self._value(inner, nested=True)
        elif kind in SIZES:
            self._skip(SIZES[kind], "a value")
        else:
            raise ValueError(
                f"{self._path}: got a metadata value of type {kind}, expected a number, a text or an array of them"
            )

    def _number(self, form: str) -> int:
        """The number here."""
        at = self._at
        self._skip(struct.calcsize(form), "a number")
        return struct.unpack_from(form, self._content, at)[0]

    def _skip(self, size: int, what: str) -> None:
        """Moves on, not beyond the end."""
        left = len(self._content) - self._at
        if size > left:
            raise ValueError(f"{self._path}: got {what} of {size} bytes where {left} are left, expected a whole GGUF file")
        self._at += size

    def _fitting(self, count: int, least: int, what: str) -> int:
        """A number of things of so many bytes at least, of which there is room for all."""
        left = len(self._content) - self._at
        if count * least > left:
            raise ValueError(f"{self._path}: got {count} {what} where {left} bytes are left, expected a whole GGUF file")
        return count
