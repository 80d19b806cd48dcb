"""Questions in their parts: what a run retains and forgets, what it never sees, and what nobody was trained on."""

import dataclasses
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from experiments.data import fictional, questions, tofu, waterdrum
from experiments.data.questions import Question, Sets, warn_of_shared
from experiments.language.config import Problem
from experiments.runs.run_store import digest

NAMES = ("fictional", "tofu", "waterdrum")
Questions = tuple[Question, ...]


@dataclasses.dataclass(frozen=True)
class Parts:
    """All questions.

    Attributes:
      retain: what a run is to keep.
      forget: what it is to forget.
      duplicates: of the forget set, in the hard case: retained too.
      validation_retain: held out from runs, though the model learned them: settings are chosen on these.
      validation_forget: likewise, about those who are to be forgotten.
      validation_duplicates: duplicates of these.
      unseen: never trained on.
      real_authors: what the model may know by itself (TOFU).
      world_facts: likewise.
    """

    retain: Questions
    forget: Questions
    duplicates: Questions
    validation_retain: Questions
    validation_forget: Questions
    validation_duplicates: Questions
    unseen: Questions = ()
    real_authors: Questions = ()
    world_facts: Questions = ()

    def trained_on(self, kind: str) -> Questions:
        """The training set of the `full` or the `retrained` model, by row: it is the same however it is divided."""
        known = (*self.retain, *self.validation_retain)
        gone = (*self.forget, *self.validation_forget) if kind == "full" else ()
        ordered = sorted((*known, *gone), key=lambda one: one.row)
        return (*ordered, *self.duplicates, *self.validation_duplicates)

    def evaluated(self, most: int) -> dict[str, Questions]:
        """What is evaluated, of each part at most so many, evenly spread; empty parts are left out."""
        named = {field.name.replace("_", " "): getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: spread(part, most) for name, part in named.items() if part and name != "validation duplicates"}

    def watched(self, most: int) -> dict[str, Questions]:
        """The questions on which settings are chosen: those that are held out, or the set itself where none are."""
        held_out = {"retain": self.validation_retain or self.retain, "forget": self.validation_forget or self.forget}
        return {f"validation {name}": spread(part, most) for name, part in held_out.items()}

    @property
    def sha256(self) -> str:
        """Digits that tell other questions, or another division of them, apart."""
        return digest(
            {field.name: [tuple(question) for question in getattr(self, field.name)] for field in dataclasses.fields(self)}
        )


def read_splits(config: Problem, data_dir: Path | None = None) -> Parts:
    """Reads the questions and divides them.

    Raises:
      FileNotFoundError, ValueError: naming the argument, for data that are not there or can't be divided like that.
    """
    sets, unseen, world = _read(config, data_dir)
    if config.hard != "none":
        sets.hard(config.hard)  # raises if there are none
    duplicates = {"none": (), "semantic": sets.semantic_duplicates, "exact": sets.exact_duplicates}[config.hard]
    retained, forgotten = _held(sets.retain, config.held_out), _held(sets.forget, config.held_out)
    alike = forgotten if len(duplicates) == len(forgotten) else np.zeros(len(duplicates), bool)
    both = [
        _where(part, held == wanted)
        for wanted in (False, True)
        for part, held in ((sets.retain, retained), (sets.forget, forgotten), (duplicates, alike))
    ]
    for name, part, whole in (("retain", both[3], sets.retain), ("forget", both[4], sets.forget)):
        if part or config.held_out == 0:
            continue
        nothing = f"held_out: got {config.held_out}, which holds out no question to {name}"
        if config.data[0] in NAMES:
            raise ValueError(f"{nothing}, expected more, or 0: then settings are chosen on the {name} set")
        warnings.warn(f"{nothing} of {len(whole)}: settings are chosen on the {name} set", stacklevel=2)
    return Parts(*both, unseen, *world)


def requests(asked: Questions, groups: int) -> tuple[Int[np.ndarray, " n"], int]:
    """The number of each question's request, one per person if all are known, else so many; and how many there are."""
    persons = list(dict.fromkeys(question.person for question in asked))
    if None in persons:
        groups = min(groups, len(asked))
        return np.arange(len(asked), dtype=np.int32) % groups, groups
    return np.array([persons.index(question.person) for question in asked], np.int32), len(persons)


def spread(part: Questions, most: int) -> Questions:
    """At most so many, evenly spread."""
    if len(part) <= most:
        return part
    return tuple(part[place] for place in np.linspace(0, len(part) - 1, most).round().astype(int))


def _read(config: Problem, data_dir: Path | None) -> tuple[Sets, Questions, tuple[Questions, ...]]:
    """The sets, those who are never trained on, and questions about the world."""
    name, *more = config.data
    if name not in NAMES:
        if len(config.data) not in (2, 3):
            expected = f"one of {', '.join(NAMES)}, or two or three files (retain, forget, unseen)"
            raise ValueError(f"data: got {' '.join(config.data)}, expected {expected}")
        sets, unseen = questions.from_files(name, more[0]), questions.read(more[1]) if more[1:] else ()
        warn_of_shared(unseen, (*sets.retain, *sets.forget), f"the unseen file {more[-1]} are in the retain or the forget file")
        return sets, unseen, ()
    if more:
        raise ValueError(f"data: got {' '.join(config.data)}, expected {name} alone")
    if name == "fictional":
        return *_fictional(config), ()
    if data_dir is None:
        raise ValueError(f"data_dir: got None, expected the directory of {name}")
    if name == "waterdrum":
        return waterdrum.load(data_dir), (), ()
    return _tofu(config, data_dir)


def _fictional(config: Problem) -> tuple[Sets, Questions]:
    """The invented persons: the first are never trained on, the last are forgotten."""
    everyone = fictional.load()
    names = list(dict.fromkeys(question.person for question in everyone))
    authors = len(names) - config.unseen if config.authors is None else config.authors
    _check(authors, config, len(names))
    first = len(names) - authors
    kept, gone = names[first : len(names) - config.forgotten], names[len(names) - config.forgotten :]
    rows = [
        [question.row for question in everyone if question.person in wanted] for wanted in (kept, gone, names[: config.unseen])
    ]
    retain, forget, unseen = (np.array(some, int) for some in rows)
    return questions.sets(everyone, retain, forget), tuple(everyone[row] for row in unseen)


def _tofu(config: Problem, data_dir: Path) -> tuple[Sets, Questions, tuple[Questions, ...]]:
    """The first authors of TOFU, of whom the last are forgotten; those after them are never trained on."""
    authors = 20 if config.authors is None else config.authors
    _check(authors, config, tofu.ROWS // tofu.PER_AUTHOR)
    held = tofu.load(data_dir)
    named = tuple(one._replace(person=f"author {row // tofu.PER_AUTHOR}") for row, one in enumerate(held.questions))
    split = tofu.by_author(authors, config.forgotten)
    first = authors * tofu.PER_AUTHOR
    unseen = named[first : first + config.unseen * tofu.PER_AUTHOR]
    return questions.sets(named, split.retain, split.forget), unseen, (held.real_authors, held.world_facts)


def _check(authors: int, config: Problem, there: int) -> None:
    """Checks numbers of authors."""
    if not 0 <= config.unseen <= there - 2:
        raise ValueError(f"unseen: got {config.unseen}, expected a number from 0 to {there - 2}")
    if not 2 <= authors <= there - config.unseen:  # noqa: PLR2004
        raise ValueError(f"authors: got {authors}, expected a number from 2 to {there - config.unseen}, without those unseen")
    if not 1 <= config.forgotten < authors:
        raise ValueError(
            f"forgotten: got {config.forgotten}, expected a number from 1 to {authors - 1}, fewer than the authors"
        )


def _held(part: Sequence[Question], share: float) -> np.ndarray:
    """Which questions are held out: of each person the last; where persons are not known, the last of all."""
    if not 0 <= share < 1:
        raise ValueError(f"held_out: got {share}, expected a number of at least 0 and below 1")
    totals, before, held = Counter(question.person for question in part), defaultdict[str | None, int](int), []
    for question in part:
        total = totals[question.person]
        held.append(before[question.person] >= total - int(share * total + 1e-9))  # 1e-9: 0.29 * 100 is below 29
        before[question.person] += 1
    return np.array(held, bool)


def _where(part: Sequence[Question], chosen: np.ndarray) -> Questions:
    """Some of the questions."""
    return tuple(question for question, wanted in zip(part, chosen, strict=True) if wanted)
