"""Files of questions in other encodings, compressed, half there or broken: the file and the line are named."""

import codecs
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.data import digits, images, questions, text_files, waterdrum

ROW = '{"question": "Où?", "answer": "Là."}\n'


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "own.jsonl", codecs.BOM_UTF8 + (ROW * 2).encode())
    assert [(one.question, one.answer) for one in questions.read(file)] == [("Où?", "Là.")] * 2
    windows = write(tmp_path / "windows.jsonl", (ROW * 2).replace("\n", "\r\n").encode())
    assert questions.read(windows) == questions.read(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROW.encode("utf-16"), r"own\.jsonl, line 1: got text in UTF-16 .*, expected UTF-8"),
        (ROW.encode("utf-16-le"), r"own\.jsonl, line 1: got the byte 0xf9, not UTF-8|line 1: got what is not JSON"),
        (
            (ROW.replace("ù", "u").replace("à", "a") + ROW).encode("latin-1"),
            r"own\.jsonl, line 2: got the byte 0xf9, not UTF-8",
        ),
        (gzip.compress(ROW.encode(), mtime=0), r"own\.jsonl: got data compressed by gzip, expected the file itself, unpacked"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            r"own\.jsonl: got a Git LFS pointer.*git lfs pull",
        ),
        (b'{"text": "a"}\n{"text": "\\ud83d"}\n', r"own\.jsonl, line 2, field 'text': got a lone surrogate in '\\ud83d'"),
        (b'{"text": "a"}\n{"text": "b', r"own\.jsonl, line 2: got what is not JSON"),
        (b'{"text": ' + b"[" * 10**5 + b"\n", r"own\.jsonl, line 1: got JSON that is nested too deeply"),
        (b'{"text": ' + b"9" * 5000 + b"}\n", r"own\.jsonl, line 1: got what is not JSON \(Exceeds the limit"),
        (b"PK\x03\x04 and so on", r"own\.jsonl: got data compressed by zip"),
        (b"\n \n", r"own\.jsonl: got no lines"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        questions.read(write(tmp_path / "own.jsonl", content))


def test_a_whole_character_of_two_escapes_is_read(tmp_path: Path) -> None:
    assert questions.read(write(tmp_path / "own.jsonl", b'{"text": "\\ud83d\\ude00"}'))[0].answer == "😀"


def test_a_file_of_settings_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"large: got 12 bytes, expected at most 10"):
        text_files.read_text(write(tmp_path / "large", b"a" * 12), largest=10)


def test_rows_that_are_also_retained_are_said(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(9)]
    kept = write(tmp_path / "retain.jsonl", "\n".join(map(json.dumps, rows[:6])).encode())
    other = {"question": "what  is 2?", "answer": "It is 2. "}
    gone = write(
        tmp_path / "forget.jsonl", "\n".join(map(json.dumps, [rows[7], other, rows[4], {**rows[3], "answer": "No."}])).encode()
    )
    with pytest.warns(
        UserWarning, match=r"2 of 4 rows of the forget file .*forget\.jsonl are in the retain file .* \(rows 1, 2, "
    ):
        sets = questions.from_files(kept, gone)
    assert (len(sets.retain), len(sets.forget)) == (6, 4)
    write(tmp_path / "forget.jsonl", kept.read_bytes())
    with pytest.warns(
        UserWarning, match=r"6 of 6 rows of the forget set in .* are in the retain set too \(rows 0, 1, 2, 3, 4, \.\.\."
    ):
        waterdrum.load(tmp_path)


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    for name in ("retain", "forget"):
        write(tmp_path / f"{name}.parquet", b"PAR1, but no more")
    with pytest.raises(ValueError, match=r"retain\.parquet: got what pyarrow does not read"):
        waterdrum.load(tmp_path)


def test_a_description_of_images_that_is_broken(tmp_path: Path) -> None:
    directory = tmp_path / "cifar10" / "3.0.2"
    directory.mkdir(parents=True)
    write(directory / "dataset_info.json", b'{"fileFormat": ')
    with pytest.raises(ValueError, match=r"dataset_info\.json: got what is not JSON"):
        images.load("cifar10", tmp_path)


def test_a_class_that_no_digit_has() -> None:
    examples = {"label": np.array([0, 1, 1])}
    with pytest.raises(ValueError, match=r"^forget_class: got 12, expected a class that has examples \(0, 1\)$"):
        digits.by_class(examples, 12)
