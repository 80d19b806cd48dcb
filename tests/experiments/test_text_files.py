"""Text files of unknown origin: what is not UTF-8 is refused with the file and the line."""

import gzip
import json
from pathlib import Path

import pytest

from experiments.data import questions, text_files

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
