"""Text files of unknown origin: what is not UTF-8 is refused with the file and the line."""

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.data import questions, text_files
from experiments.language import models, question_splits, task
from experiments.language.config import ModelSettings, Problem
from experiments.runs import run_store

LINES = '{"question": "Wo?", "answer": "Köln"}\n{"question": "Wer?", "answer": "Jörg"}\n'


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode())
    assert [one.answer for one in questions.read(path)] == ["Köln", "Jörg"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (LINES.encode("utf-16"), r"questions.jsonl: got UTF-16, expected text in UTF-8"),
        (LINES.replace("Köln", "Bonn").encode("latin-1"), r"questions.jsonl, line 2: got the byte 0xf6, which is not UTF-8"),
        (gzip.compress(LINES.encode()), r"questions.jsonl: got a gzip archive, expected text"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"questions.jsonl: got a Git LFS pointer"),
        (
            b'\n{"text": "a\\ud800b"}\n',
            r"questions.jsonl, line 2, field 'text': got 'a\\ud800b', which has half of a surrogate",
        ),
        (b"[" * 100_000, r"questions.jsonl, line 1: got what is not JSON"),
    ],
    ids=["utf-16", "latin-1", "gzip", "lfs", "surrogate", "nested"],
)
def test_what_is_not_utf_8(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        questions.read(path)


def test_half_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"steps": 3})[:-2], encoding="utf-8")
    with pytest.raises(ValueError, match=r"run.json: got incomplete or wrong JSON .* expected a JSON object"):
        text_files.read_json(path)


def test_a_truncated_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "comp', encoding="utf-8")
    with pytest.raises(ValueError, match=r"run.json: got incomplete or wrong JSON"):
        run_store.read_run(tmp_path)


def files(tmp_path: Path, retain: int, forget: int) -> tuple[str, str]:
    """Files of so many questions."""
    paths = tmp_path / "retain.jsonl", tmp_path / "forget.jsonl"
    for path, count in zip(paths, (retain, forget), strict=True):
        lines = [json.dumps({"question": f"{path.stem} {row}?", "answer": f"{row}."}) for row in range(count)]
        path.write_text("\n".join(lines), encoding="utf-8")
    return str(paths[0]), str(paths[1])


@pytest.mark.parametrize(("retain", "forget", "held_out"), [(10, 1, 0.2), (4, 4, 0.2), (1, 1, 0.2), (10, 10, 0.0)])
def test_one_question_can_be_forgotten(tmp_path: Path, retain: int, forget: int, held_out: float) -> None:
    found = question_splits.read_splits(Problem(data=files(tmp_path, retain, forget), held_out=held_out))
    assert len(found.forget) == len(found.validation_forget) == forget
    assert len(found.trained_on("full")) == retain + forget
    assert len(found.trained_on("retrained")) == retain
    assert len(found.retain) + (len(found.validation_retain) if retain == 10 and held_out else 0) == retain


def test_rows_in_both_files_are_said(tmp_path: Path) -> None:
    retain, forget = files(tmp_path, 3, 2)
    with Path(retain).open("a", encoding="utf-8") as file:
        file.write("\n" + Path(forget).read_text(encoding="utf-8").splitlines()[1])
    with pytest.warns(UserWarning, match=r"forget.jsonl: 1 of 2 rows to forget are also in .*retain.jsonl \(row 1 for one\)"):
        questions.from_files(retain, forget)


def test_nan_is_not_saved(tmp_path: Path) -> None:
    made = task.build_task(ModelSettings(out=tmp_path, problem=Problem(model="tiny")))
    broken: Any = jax.tree.map(lambda x: x.at[0].set(jnp.nan), made.base.adapter(0))
    with pytest.raises(ValueError, match="learning_rate: got an adapter with NaN or infinite numbers"):
        models.save_adapter(made, tmp_path / "run", broken)
    assert not (tmp_path / "run").exists()
