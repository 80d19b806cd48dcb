"""The history of a run: one row per step, as JSON lines and as columns."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

Row: TypeAlias = dict[str, Any]


@dataclasses.dataclass
class History:
    """A table of what a run measured.

    Row `t` describes the parameters after `t` updates: the losses on batch `t`, the hardness there, the step that was then
    taken, and, where it was due, the evaluation. The last row may hold an evaluation alone.

    Attributes:
      rows: one dictionary per step; `step` is always there. Missing: not measured.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)

    def column(self, name: str) -> Shaped[np.ndarray, " rows"]:
        """One column as floats, NaN where a row does not have it.

        Raises:
          KeyError: if no row has it.
        """
        if not any(name in row for row in self.rows):
            known = sorted({key for row in self.rows for key in row})
            raise KeyError(f"history: got column {name!r}, expected one of {', '.join(known)}")
        values = (row.get(name) for row in self.rows)
        return np.array([math.nan if value is None else float(value) for value in values])

    def measured(self, name: str) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
        """The steps at which a column was measured, and its values there: what one plots."""
        values = self.column(name)
        there = ~np.isnan(values)
        return self.column("step")[there].astype(int), values[there]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON lines, whole or not at all. A number that is not finite becomes null."""
        write_whole(path, "".join(json.dumps(json_row(row), allow_nan=False) + "\n" for row in self.rows))

    @staticmethod
    def read(path: str | os.PathLike[str]) -> "History":
        """Reads what `write` wrote."""
        return History([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()])


def json_row(row: Mapping[str, Any]) -> Row:
    """A row of plain Python values that JSON can hold, see `json_value`."""
    return {key: json_value(value) for key, value in row.items()}


def json_value(value: Any) -> Any:
    """Arrays as nested lists, whatever they are in; a number that is not finite becomes None, for which JSON has a word."""
    if isinstance(value, Mapping):
        return json_row(value)
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(value)
        wide = array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
        return json_value(wide.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file, whole or not at all. A lone surrogate, which UTF-8 lacks, becomes its escape sequence."""
    write_bytes_whole(path, text.encode(errors="backslashreplace"))


def write_bytes_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file through a temporary one in the same directory, so that readers see the old or the new, never half."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
