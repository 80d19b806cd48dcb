"""What a safetensors file says that it holds: read and checked before anything is allocated."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.text_files import check_content, parse_object

LARGEST = 10**8  # bytes of a header, as the safetensors library has it
FLOATING = ("F64", "F32", "F16", "BF16")


class Tensor(NamedTuple):
    """A tensor of a file.

    Attributes:
      dtype: in the words of safetensors, such as `BF16`.
      shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; none of them is read.

    Raises:
      ValueError: naming the file, for one that is no safetensors file, is cut off or is a Git LFS pointer, and naming the
        tensor, for one whose numbers are not floating: quantised weights are not weights.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        check_content(path, start)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(size - 8, LARGEST):  # noqa: PLR2004  (the length's own bytes)
            raise ValueError(
                f"{path}: got {size} bytes that are no safetensors file, or the beginning of one, expected a whole one"
            )
        file.seek(8)
        content = file.read(length)
    try:
        entries = parse_object(content.decode("utf-8"), f"{path}, header")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: got a header that is not UTF-8, expected a safetensors file") from error
    entries.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry) for name, entry in entries.items()}
    end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if end != size:
        raise ValueError(f"{path}: got {size} bytes, expected {end}, as its header says: the file is cut off or damaged")
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"{path}: got {name} of {tensor.dtype}, expected one of {', '.join(FLOATING)}: quantised models are not read"
            )
    return tensors


def _tensor(path: Path, name: str, entry: Any) -> Tensor:
    """One entry of a header."""
    expected = {"dtype": str, "shape": list, "data_offsets": list}
    whole = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in expected.items())
    numbers = [*entry["shape"], *entry["data_offsets"]] if whole else []
    if not whole or len(entry["data_offsets"]) != 2 or any(type(x) is not int or x < 0 for x in numbers):  # noqa: PLR2004
        raise ValueError(f"{path}: got the entry {str(entry)[:80]!r} for {name}, expected dtype, shape and two data_offsets")
    return Tensor(entry["dtype"], tuple(entry["shape"]))
