"""Twelve invented persons with five questions each, written for this project: what runs when no other data is there.

Of the two who are forgotten by default, one was born in the same town as a retained person and builds things too, the other
keeps bees as another does: what must go looks like what must stay.
"""

import functools
from pathlib import Path

import numpy as np

from experiments.data.questions import Question, Sets, read, sets
from experiments.data.splits import Split


@functools.cache
def load() -> tuple[Question, ...]:
    """All 60 questions, with paraphrases and three wrong answers.

    Example:
      >>> load()[0].question
      'Where was Odrun Vesselby born?'
    """
    return read(Path(__file__).with_suffix(".jsonl"))


def split(forgotten: int = 2) -> Split:
    """The rows of the last so many persons to be forgotten, and all others.

    Args:
      forgotten: how many persons, at least one and fewer than all twelve.

    Returns:
      Their rows.

    Raises:
      ValueError: for a number outside this range.

    Example:
      >>> split().forget.tolist()
      [50, 51, 52, 53, 54, 55, 56, 57, 58, 59]
    """
    persons = np.array([question.person for question in load()])
    names = list(dict.fromkeys(persons.tolist()))
    if not 1 <= forgotten < len(names):
        raise ValueError(f"forgotten: got {forgotten}, expected a number from 1 to {len(names) - 1}, fewer than the persons")
    gone = np.isin(persons, names[-forgotten:])
    return Split(np.flatnonzero(gone), np.flatnonzero(~gone))


def data(forgotten: int = 2) -> Sets:
    """The questions of that split, and duplicates of those to forget."""
    parts = split(forgotten)
    return sets(load(), parts.retain, parts.forget)
