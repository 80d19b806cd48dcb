"""Reads text files of unknown origin: UTF-8 with or without a byte order mark, and nothing else."""

import json
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs"
OTHER_FORMATS = {
    LFS_POINTER: "a Git LFS pointer (git lfs pull downloads the file)",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without its byte order mark.

    Raises:
      ValueError: naming the file, and the line of the first byte that is not UTF-8.
    """
    raw = path.read_bytes()
    for start, what in OTHER_FORMATS.items():
        if raw.startswith(start):
            raise ValueError(f"{path}: got {what}, expected text in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        wrong = raw[error.start]
        raise ValueError(
            f"{path}, line {line}: got the byte 0x{wrong:02x}, which is not UTF-8, expected text in UTF-8"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: naming the file, for anything else.
    """
    try:
        values = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: got incomplete or wrong JSON ({error}), expected a JSON object") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got {type(values).__name__}, expected a JSON object")
    return values
