"""The deletion record: what was forgotten, from which model, how far, and at which cost, in a file that can be verified."""

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hamu_jax._base import validate
from hamu_jax._base.environment import environment
from hamu_jax._base.history import History, json_row, json_value, write_whole
from hamu_jax._base.key_paths import path_name
from hamu_jax._driver.fingerprint_content import hash_of_array

FORMAT = 1
IN_BOTH, FORGOTTEN_BEFORE = "are in the forget set too", "an earlier request forgot"
_PROMISED = ("retain_promised", "retain_measured", "forget_promised", "forget_measured")
_HARDNESS = ("kappa", "cosine", "angle", "retain_norm", "forget_norm")


@dataclasses.dataclass(frozen=True)
class DeletionRecord:
    """A deletion record, from `Forgotten.record` or from a file.

    Attributes:
      content: plain values, as JSON holds them. `hash` is the SHA-256 of the rest, `previous` that of the record before it.
    """

    content: dict[str, Any]

    @property
    def hash(self) -> str:
        """The hash that the record carries."""
        return self.content["hash"]

    def is_intact(self) -> bool:
        """Whether nothing in the record was changed since it was made."""
        return self.content.get("hash") == record_hash(self.content)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the record as JSON, whole or not at all."""
        write_whole(path, self.text())

    def text(self) -> str:
        """The record as it is written: JSON in ASCII with sorted keys."""
        return json.dumps(self.content, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @staticmethod
    def read(path: str | os.PathLike[str]) -> "DeletionRecord":
        """Reads what `write` wrote; `is_intact` says whether it was changed.

        Raises:
          ValueError: naming the file, if it is not a record, or if white space or the order of its entries was changed.
        """
        try:
            data = Path(path).read_bytes()
            content = json.loads(data.decode("ascii"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: got a file that cannot be read as a deletion record ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path}: got another kind of JSON, expected a deletion record of format {FORMAT}")
        record = DeletionRecord(content)
        if data != record.text().encode():
            raise ValueError(f"{path}: got other bytes than those of a deletion record as it is written, expected the same")
        return record


def record_hash(content: dict[str, Any]) -> str:
    """The SHA-256 of a record's canonical JSON, without its own hash."""
    rest = {name: value for name, value in content.items() if name != "hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def content_hash(tree: Any) -> str:
    """The SHA-256 of a pytree of arrays: path, dtype, shape and bytes of every leaf, whatever the containers."""
    lines = [
        f"{path_name(path)} {np.asarray(leaf).dtype}{list(np.shape(leaf))} {hash_of_array(np.asarray(leaf))}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def row_hashes(data: Any) -> list[str]:
    """A hash for each example: 32 hexadecimal digits of the SHA-256 of paths, dtypes, shapes and bytes in all leaves."""
    size = validate.batch("data", data)
    named = [(path_name(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(data)]
    leaves = sorted(named, key=lambda pair: pair[0])
    header = repr([(name, str(leaf.dtype), leaf.shape[1:]) for name, leaf in leaves]).encode()
    rows = [np.ascontiguousarray(leaf).reshape(size, -1).view(np.uint8).reshape(size, -1) for _, leaf in leaves]
    return [hashlib.sha256(b"".join((header, *(leaf[i].tobytes() for leaf in rows)))).hexdigest()[:32] for i in range(size)]


def common_rows(retained: dict[str, Any], forgotten: Sequence[str], what: str) -> str | None:
    """Which rows of the retained sets are forgotten rows, in words; None if none is.

    Args:
      retained: the retained data sets as a record describes them, by name.
      forgotten: the hashes of the forgotten rows.
      what: what is wrong with such a row, in words.
    """
    first = {digest: row for row, digest in reversed(list(enumerate(forgotten)))}
    for name in ("retain", "held_out"):
        rows = retained[name]["rows"] if name in retained else []
        common = [(row, first[digest]) for row, digest in enumerate(rows) if digest in first]
        if common:
            row, there = common[0]
            return f"{name}: got {len(common)} examples that {what}, the first at {name} row {row} and forget row {there}"
    return None


def build_record(
    outcome: dict[str, Any],
    *,
    request_id: str,
    approved_by: str | None,
    rows: Sequence[Any] | None,
    previous: DeletionRecord | None,
    params: tuple[Any, Any],
    data: dict[str, Any],
    source: Any,
    history: History,
    best_step: int,
) -> DeletionRecord:
    """Puts a record together.

    Raises:
      ValueError: if a retain example is also a forget example, or a previous record forgot it; if `previous` was changed, or
        ends with other parameters than these begin with.
    """
    size = validate.batch("forget", data["forget"])
    if rows is not None and len(rows) != size:
        raise ValueError(f"rows: got {len(rows)}, expected one for each of the {size} forget examples")
    sets = {name: _described(examples) for name, examples in data.items() if examples is not None}
    if common := common_rows(sets, sets["forget"]["rows"], IN_BOTH):
        raise ValueError(f"{common}, expected none")
    before, after = (content_hash(tree) for tree in params)
    if previous is not None:
        _check_previous(previous, before, sets)
    taken = [row for row in history.rows if row["step"] < best_step and row.get("step_accepted", True)]
    changes = {name: sum(row[name] for row in taken if row.get(name) is not None) for name in _PROMISED}
    content = {
        "format": FORMAT,
        "request_id": str(request_id),
        "approved_by": _plain("approved_by", approved_by),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rows": None if rows is None else [row if isinstance(row, str | int) else str(row) for row in rows],
        "previous": None if previous is None else previous.hash,
        **outcome,
        "changes": changes,
        "hardness": {name: history.rows[0].get(name) for name in _HARDNESS},
        "params": {"before": before, "after": after},
        "data": sets,
        "forgotten_before": [] if previous is None else _forgotten(previous),
        "source": _plain("data", source),
        "environment": environment(),
    }
    plain = json_row(content)
    return DeletionRecord({**plain, "hash": record_hash(plain)})


def check_chain(record: DeletionRecord, previous: DeletionRecord) -> str | None:
    """What is wrong with a record's place after another, in words; None if nothing is."""
    if not previous.is_intact():
        return "the previous record was changed"
    if record.content["previous"] != previous.hash:
        return "it names another record as the one before it"
    if record.content["params"]["before"] != previous.content["params"]["after"]:
        return "it does not begin with the parameters that the previous record ends with"
    return common_rows(record.content["data"], _forgotten(previous), FORGOTTEN_BEFORE)


def _check_previous(previous: DeletionRecord, before: str, sets: dict[str, Any]) -> None:
    """Raises unless a new record may follow a previous one."""
    if not previous.is_intact():
        raise ValueError("previous: got a record that was changed since it was made, expected an intact one")
    if previous.content["params"]["after"] != before:
        raise ValueError("params: got parameters that the previous record does not end with, expected those")
    if common := common_rows(sets, _forgotten(previous), FORGOTTEN_BEFORE):
        raise ValueError(f"{common}, expected none")


def _forgotten(record: DeletionRecord) -> list[str]:
    """The hashes of all rows that a request and those before it forgot."""
    return [*record.content["forgotten_before"], *record.content["data"]["forget"]["rows"]]


def _plain(name: str, value: Any) -> Any:
    """A value as JSON gives it back."""
    try:
        return json.loads(json.dumps(json_value(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: got a value that JSON cannot hold ({error}), expected texts, numbers or lists") from error


def _described(data: Any) -> dict[str, Any]:
    """The size and the hash of a data set, and the hash of each of its rows."""
    return {"examples": validate.batch("data", data), "hash": content_hash(data), "rows": row_hashes(data)}
