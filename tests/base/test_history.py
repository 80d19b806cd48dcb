"""The history: what is written is read again, and a failing write harms nothing."""

import json
import math
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax._base.history import json_row, write_whole

ROWS = [
    {"step": 0, "loss": 1.5, "test/accuracy": 0.25, "unavoidable": False},
    {"step": 1, "loss": None, "unavoidable": True},
    {"step": 2, "test/accuracy": 0.75},
]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    hamu_jax.History(ROWS).write(path)
    assert hamu_jax.History.read(path).rows == ROWS
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert path.read_text(encoding="utf-8").endswith("\n")


def test_an_empty_history(tmp_path: Path) -> None:
    hamu_jax.History().write(tmp_path / "history.jsonl")
    assert hamu_jax.History.read(tmp_path / "history.jsonl").rows == []


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    row = {"step": 0, "nan": math.nan, "up": np.float32(np.inf), "down": np.array(-np.inf), "good": np.float32(0.5)}
    hamu_jax.History([row]).write(tmp_path / "history.jsonl")
    line = (tmp_path / "history.jsonl").read_text(encoding="utf-8")
    assert json.loads(line, parse_constant=refuse) == {"step": 0, "nan": None, "up": None, "down": None, "good": 0.5}
    assert np.isnan(hamu_jax.History.read(tmp_path / "history.jsonl").column("up")).all()


def test_rows_are_plain_python() -> None:
    plain = json_row({"a": np.int32(3), "b": np.bool_(True), "c": np.float32(0.1), "d": "word", "e": None})
    assert plain == {"a": 3, "b": True, "c": float(np.float32(0.1)), "d": "word", "e": None}
    assert [type(value) for value in plain.values()] == [int, bool, float, str, type(None)]


def test_columns() -> None:
    history = hamu_jax.History(ROWS)
    np.testing.assert_array_equal(history.column("loss"), [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(history.column("unavoidable"), [0.0, 1.0, np.nan])
    steps, values = history.measured("test/accuracy")
    assert steps.dtype.kind == "i"
    np.testing.assert_array_equal(steps, [0, 2])
    np.testing.assert_array_equal(values, [0.25, 0.75])


def test_an_unknown_column() -> None:
    message = "history: got column 'accuracy', expected one of loss, step, test/accuracy, unavoidable"
    with pytest.raises(KeyError, match=message):
        hamu_jax.History(ROWS).column("accuracy")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failing_write_leaves_the_old_file(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    hamu_jax.History(ROWS).write(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, full)
        with pytest.raises(OSError, match="no space left"):
            hamu_jax.History(ROWS[:1]).write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["history.jsonl"]  # no half-written file beside it


def test_a_row_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    hamu_jax.History(ROWS).write(path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        hamu_jax.History([*ROWS, {"step": object()}]).write(path)
    assert hamu_jax.History.read(path).rows == ROWS


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "Zürich\n")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "Zürich\n"
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644


def test_what_is_nested_is_plain_too(tmp_path: Path) -> None:
    nested = {"a": {"b": [math.nan, (np.float32(np.inf), 1)]}, "c": np.array([[1.0, np.nan]]), "d": jnp.ones(2, jnp.bfloat16)}
    plain = {"a": {"b": [None, [None, 1]]}, "c": [[1.0, None]], "d": [1.0, 1.0]}
    assert json_row(nested) == plain
    hamu_jax.History([{"step": 0, **nested}]).write(tmp_path / "history.jsonl")
    line = (tmp_path / "history.jsonl").read_text(encoding="utf-8")
    assert json.loads(line, parse_constant=refuse) == {"step": 0, **plain}
