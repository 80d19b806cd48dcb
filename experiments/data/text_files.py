"""Text and JSON files of unknown origin: bounded reads, and errors that name the file and the line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 2**30  # bytes of a file of questions
LARGEST_JSON = 2**27  # bytes of a file of settings or of a tokenizer; Llama 3's tokenizer has 17 million
LFS = b"version https://git-lfs.github.com/spec/"
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, *, largest: int = LARGEST_JSON) -> str:
    """Reads a text file in UTF-8, with or without a byte order mark.

    Args:
      path: the file, which must exist.
      largest: the largest size that is read, in bytes.

    Returns:
      The text without the byte order mark.

    Raises:
      ValueError: naming the file and, where there is one, the line: for a larger file, another encoding, compressed data,
        and a Git LFS pointer in the place of the file.
    """
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"{path}: got {size} bytes, expected at most {largest}")
    content = path.read_bytes()
    check_content(path, content)
    if content.startswith(UTF_16):
        raise ValueError(f"{path}, line 1: got text in UTF-16 (its first two bytes say so), expected UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ValueError(f"{path}, line {line}: got the byte 0x{byte:02x}, not UTF-8 (Latin-1?), expected UTF-8") from error


def check_content(path: Path, content: bytes) -> None:
    """Checks the first bytes of a file for what is often in the place of a file.

    Raises:
      ValueError: for a Git LFS pointer and for compressed data.
    """
    if content.startswith(LFS):
        raise ValueError(f"{path}: got a Git LFS pointer, expected the file itself: git lfs pull fetches it")
    for start, program in PACKED.items():
        if content.startswith(start):
            raise ValueError(f"{path}: got data compressed by {program}, expected the file itself, unpacked")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number from 1.

    Raises:
      ValueError: as `read_text`.
    """
    text = read_text(path, largest=LARGEST).replace("\r\n", "\n").replace("\r", "\n")
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object; `where` says in errors where the text comes from.

    Raises:
      ValueError: for text that is not a JSON object, naming `where`.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{where}: got JSON that is nested too deeply, expected a JSON object") from error
    except ValueError as error:  # also an integer of more digits than Python reads
        raise ValueError(f"{where}: got what is not JSON ({error}), expected a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: got {type(value).__name__}, expected a JSON object")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: naming the file, for what is not a JSON object in UTF-8, or is cut off.
    """
    return parse_object(read_text(path), str(path))
