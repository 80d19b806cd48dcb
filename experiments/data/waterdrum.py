"""WaterDrum-TOFU (arXiv 2505.05064), the paper's language data, from a directory: TOFU with duplicates of its forget sets."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.data.questions import Question, Sets, question, read, warn_of_shared

REQUIRED, OPTIONAL = ("retain", "forget"), ("semantic_duplicate", "exact_duplicate")
SUFFIXES = (".parquet", ".jsonl", ".json")


def load(data_dir: str | os.PathLike[str]) -> Sets:
    """Reads one of the data set's configurations.

    Published are `forget_01`, `forget_05` and `forget_10`, each also as `unwatermarked_...`; only `forget_10` has duplicates.

    Args:
      data_dir: the configuration's directory, say `.../WaterDrum-TOFU/unwatermarked_forget_10`. A part is files
        `PART-*.parquet` as published, a file `PART.jsonl`, `PART.json` or `PART.parquet`, or a directory `PART` of such files.
        Parts are `retain` and `forget`, and, if they are there, `semantic_duplicate` and `exact_duplicate`.

    Returns:
      The sets. A row's number is that within its part.

    Raises:
      FileNotFoundError: naming the part that is not there.
      ImportError: if there are parquet files and pyarrow is not installed.
      ValueError: for rows without question and answer, or text, and for a file that is not as its name says.
    """
    directory = Path(data_dir).expanduser()
    files = {part: _files(directory, part) for part in (*REQUIRED, *OPTIONAL)}
    for part in REQUIRED:
        if not files[part]:
            there = ", ".join(sorted(path.name for path in directory.iterdir())) if directory.is_dir() else "no directory"
            raise FileNotFoundError(
                f"data_dir: got {directory}, which holds {there or 'nothing'}, expected {part}-*.parquet or {part}.jsonl in it"
            )
    sets = Sets(*(tuple(_numbered(paths)) for paths in files.values()))
    warn_of_shared(sets.forget, sets.retain, f"the forget set in {directory} are in the retain set")
    return sets


def _files(directory: Path, part: str) -> list[Path]:
    """The files of a part, in order."""
    within = directory / part
    candidates = within.iterdir() if within.is_dir() else (*directory.glob(f"{part}.*"), *directory.glob(f"{part}-*"))
    return sorted(path for path in candidates if path.suffix in SUFFIXES)


def _numbered(files: list[Path]) -> Iterator[Question]:
    """The questions of several files, numbered through."""
    questions = (question for path in files for question in (_parquet(path) if path.suffix == ".parquet" else read(path)))
    return (question._replace(row=row) for row, question in enumerate(questions))


def _parquet(path: Path) -> Iterator[Question]:
    """The questions of a parquet file."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(f"{path} is a parquet file, and pyarrow is not installed: pip install pyarrow") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow's own classes, and the system's
        raise ValueError(f"{path}: got what pyarrow does not read ({error}), expected a parquet file") from error
    for row, fields in enumerate(rows):
        yield question(fields, row, f"{path}, row {row}")
