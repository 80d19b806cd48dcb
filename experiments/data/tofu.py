"""TOFU: made-up authors, twenty questions each (arXiv 2401.06121), from a directory; its text is not part of this project."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.data.questions import Question, Sets, read, sets
from experiments.data.splits import Split

ROWS, PER_AUTHOR = 4000, 20
FORGOTTEN = {"forget01": 40, "forget05": 200, "forget10": 400}  # the last rows
PERTURBED = {"retain_perturbed": 0, "forget10_perturbed": ROWS - FORGOTTEN["forget10"]}  # which rows they begin with


class Tofu(NamedTuple):
    """The benchmark. Authors are `row // 20`.

    Attributes:
      questions: all 4,000. The first 400 and the last 400, of twenty authors each, have paraphrases and five wrong answers.
      real_authors: 100 questions about real authors, with three wrong answers.
      world_facts: 117 questions about the world, likewise.
    """

    questions: tuple[Question, ...]
    real_authors: tuple[Question, ...]
    world_facts: tuple[Question, ...]

    def sets(self, split: Split) -> Sets:
        """The questions of a split, and duplicates of those to forget if they are among the 800 that have paraphrases."""
        return sets(self.questions, split.retain, split.forget)


def load(data_dir: str | os.PathLike[str]) -> Tofu:
    """Reads the benchmark.

    Args:
      data_dir: a directory with `full`, `retain_perturbed`, `forget10_perturbed`, `real_authors_perturbed` and
        `world_facts_perturbed`, all as `.jsonl` or, as they are published, `.json`. The other files of TOFU are rows of these.

    Returns:
      The questions.

    Raises:
      FileNotFoundError: if one of the files is not there.
      ValueError: for another number of rows, or a perturbed file that does not belong to `full`.
    """
    directory = Path(data_dir).expanduser()
    questions = list(_read(directory, "full"))
    if len(questions) != ROWS:
        raise ValueError(f"data_dir: got {len(questions)} rows in {directory}/full, expected {ROWS}")
    for name, first in PERTURBED.items():
        for row, one in enumerate(_read(directory, name), first):
            plain = questions[row]
            if (one.question, one.answer) != (plain.question, plain.answer):
                raise ValueError(
                    f"data_dir: got another question in {directory}/{name}, row {row - first}, expected row {row} of full"
                )
            questions[row] = one._replace(row=row)
    return Tofu(tuple(questions), *(_read(directory, f"{name}_perturbed") for name in ("real_authors", "world_facts")))


def split(name: str) -> Split:
    """One of the benchmark's divisions of all rows.

    Args:
      name: `"forget01"`, `"forget05"` or `"forget10"`: the last 2, 10 or 20 of 200 authors are forgotten, and `retain99`,
        `retain95` or `retain90` is the rest.

    Returns:
      The rows.

    Raises:
      ValueError: for another name.

    Example:
      >>> parts = split("forget01")
      >>> print(parts.forget[[0, -1]], parts.retain[[0, -1]])
      [3960 3999] [   0 3959]
    """
    if name not in FORGOTTEN:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(FORGOTTEN)}")
    return by_author(ROWS // PER_AUTHOR, FORGOTTEN[name] // PER_AUTHOR)


def by_author(authors: int, forgotten: int) -> Split:
    """A smaller benchmark: the first so many authors, of which the last so many are forgotten.

    The first twenty authors are the ones whose questions have paraphrases and wrong answers.

    Args:
      authors: how many, up to 200.
      forgotten: how many of them, at least one and fewer than all.

    Returns:
      Their rows.

    Raises:
      ValueError: for numbers outside these ranges.

    Example:
      >>> parts = by_author(20, 2)
      >>> len(parts.retain), len(parts.forget), int(parts.forget[0])
      (360, 40, 360)
    """
    if not 2 <= authors <= ROWS // PER_AUTHOR:  # noqa: PLR2004
        raise ValueError(f"authors: got {authors}, expected a number from 2 to {ROWS // PER_AUTHOR}")
    if not 1 <= forgotten < authors:
        raise ValueError(f"forgotten: got {forgotten}, expected a number from 1 to {authors - 1}, fewer than the authors")
    rows = np.arange(authors * PER_AUTHOR)
    return Split(*reversed(np.split(rows, [(authors - forgotten) * PER_AUTHOR])))


def held_out(rows: Int[np.ndarray, " n"], questions: int = 4) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Divides rows into those to work with and those to choose settings on: of each author the last few questions.

    Args:
      rows: of whole authors, in order.
      questions: how many of each author's twenty are held out.

    Returns:
      The rows kept and the rows held out.

    Raises:
      ValueError: if the number is not from 1 to 19.

    Example:
      >>> kept, held = held_out(np.arange(40), 2)
      >>> len(kept), held.tolist()
      (36, [18, 19, 38, 39])
    """
    if not 1 <= questions < PER_AUTHOR:
        raise ValueError(f"questions: got {questions}, expected a number from 1 to {PER_AUTHOR - 1}")
    last = rows % PER_AUTHOR >= PER_AUTHOR - questions
    return rows[~last], rows[last]


def _read(directory: Path, name: str) -> Sequence[Question]:
    """One of the files."""
    files = [path for path in (directory / f"{name}.jsonl", directory / f"{name}.json") if path.is_file()]
    if not files:
        there = ", ".join(sorted(path.name for path in directory.iterdir())) if directory.is_dir() else "no directory"
        raise FileNotFoundError(
            f"data_dir: got {directory}, which holds {there or 'nothing'}, expected {name}.jsonl or {name}.json in it"
        )
    return read(files[0])
