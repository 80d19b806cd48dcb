"""Questions with their answers, and plain texts, from JSON lines; what is to be forgotten of them and what retained."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int

from experiments.data.text_files import parse_object, read_lines

Variant = Literal["paraphrased_question", "paraphrased_answer", "perturbed_answers"]
Duplicates = Literal["semantic", "exact"]
SHOWN = 5  # rows that a warning names


class Question(NamedTuple):
    """A question with its answer, or a plain text.

    Attributes:
      row: its number in the set that it comes from, from 0: results name it by this, not by its text.
      question: None for a plain text.
      answer: what is to be learned or forgotten; the plain text.
      paraphrased_question: the same in other words. None if there is none.
      paraphrased_answer: likewise.
      perturbed_answers: wrong answers, in the form of the paraphrased one.
      person: whom it is about, if that is known.
    """

    row: int
    question: str | None
    answer: str
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    person: str | None = None


class Sets(NamedTuple):
    """What to retain and what to forget, and what makes forgetting hard.

    Attributes:
      retain: what must stay.
      forget: what must go.
      semantic_duplicates: the forget set in other words. Empty if there are none.
      exact_duplicates: the forget set once more.
    """

    retain: tuple[Question, ...]
    forget: tuple[Question, ...]
    semantic_duplicates: tuple[Question, ...] = ()
    exact_duplicates: tuple[Question, ...] = ()

    def hard(self, kind: Duplicates = "semantic") -> "Sets":
        """The same with duplicates of the forget set among what is retained, after everything else: the paper's hard case.

        Raises:
          ValueError: for another word, or if there are no such duplicates.
        """
        if kind not in get_args(Duplicates):
            raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(get_args(Duplicates))}")
        added = self.semantic_duplicates if kind == "semantic" else self.exact_duplicates
        if not added:
            raise ValueError(f"kind: got {kind!r}, of which this data has none, expected duplicates of the forget set")
        return self._replace(retain=(*self.retain, *added))


def read(path: str | os.PathLike[str]) -> tuple[Question, ...]:
    """Reads JSON lines: one object a line with `question` and `answer`, or with `text`.

    Optional fields are `paraphrased_question`, `paraphrased_answer`, `perturbed_answer` (TOFU's name: a list of wrong
    answers, or one) and `person`; all others are ignored, and so are empty lines.

    Args:
      path: the file, in UTF-8, with or without a byte order mark.

    Returns:
      The questions in the order of the file.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: naming file, line and field, for what is not a JSON object or lacks a field, for one that is not text or is
        blank, for another encoding, a compressed file or a Git LFS pointer, and for a file without questions.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"path: got {path}, expected a file of JSON lines")
    numbered = list(read_lines(path))
    if not numbered:
        raise ValueError(f"{path}: got no lines, expected one JSON object per line")
    places = [f"{path}, line {number}" for number, _ in numbered]
    objects = [parse_object(line, location) for location, (_, line) in zip(places, numbered, strict=True)]
    return tuple(question(fields, row, place) for row, (fields, place) in enumerate(zip(objects, places, strict=True)))


def question(fields: Mapping[str, Any], row: int, where: str) -> Question:
    """One question from its fields, as `read` takes them; `where` says in errors where they come from."""
    text = "text" in fields and "question" not in fields
    wrong = fields.get("perturbed_answer") or ()
    return Question(
        row,
        None if text else _text(fields, "question", where),
        _text(fields, "text" if text else "answer", where),
        *(_text(fields, name, where) if fields.get(name) else None for name in ("paraphrased_question", "paraphrased_answer")),
        tuple(_each(wrong, f"{where}, field 'perturbed_answer'")),
        _text(fields, "person", where) if fields.get("person") else None,
    )


def variants(questions: Sequence[Question], which: Variant) -> tuple[Question, ...]:
    """The same questions with another wording, to be evaluated like them.

    Args:
      questions: `n` of them.
      which: `"paraphrased_question"`: with the answer as it is (does what was learned generalise?); `"paraphrased_answer"` and
        `"perturbed_answers"`: to the question as it is, what the truth ratio compares. Of k wrong answers each it makes
        `n k` questions, those of one question side by side: losses of them are reshaped to `[n, k]`.

    Returns:
      The new questions, with the row of the old.

    Raises:
      ValueError: for another word, for a question that has no such wording, or different numbers of wrong answers.

    Example:
      >>> asked = Question(3, "How high?", "Two miles.", perturbed_answers=("One mile.", "Four miles."))
      >>> [(each.row, each.answer) for each in variants([asked], "perturbed_answers")]
      [(3, 'One mile.'), (3, 'Four miles.')]
    """
    if which not in get_args(Variant):
        raise ValueError(f"which: got {which!r}, expected one of {', '.join(get_args(Variant))}")
    counts = {len(question.perturbed_answers) for question in questions}
    if which == "perturbed_answers" and len(counts) > 1:
        raise ValueError(
            f"questions: got {', '.join(map(str, sorted(counts)))} wrong answers, expected as many for each question"
        )
    for question in questions:
        if not getattr(question, which):
            raise ValueError(f"questions: got row {question.row} without {which}, expected every question to have it")
    return tuple(new for question in questions for new in VARIANTS[which](question))


VARIANTS: dict[str, Callable[[Question], Iterable[Question]]] = {
    "paraphrased_question": lambda question: (question._replace(question=question.paraphrased_question),),
    "paraphrased_answer": lambda question: (question._replace(answer=question.paraphrased_answer),),
    "perturbed_answers": lambda question: (question._replace(answer=answer) for answer in question.perturbed_answers),
}


def duplicates(questions: Sequence[Question], kind: Duplicates) -> tuple[Question, ...]:
    """Duplicates of questions that must be forgotten, to be put among those that are retained.

    Args:
      questions: the questions.
      kind: `"semantic"`: question and answer in other words; `"exact"`: the same once more.

    Returns:
      One duplicate of each, with its row.

    Raises:
      ValueError: for another word, or for a question without paraphrases.
    """
    if kind not in get_args(Duplicates):
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(get_args(Duplicates))}")
    if kind == "exact":
        return tuple(questions)
    return variants(variants(questions, "paraphrased_answer"), "paraphrased_question")


def sets(questions: Sequence[Question], retain: Int[np.ndarray, " r"], forget: Int[np.ndarray, " f"]) -> Sets:
    """The sets of these rows, with duplicates; semantic ones only if every forgotten question has been paraphrased."""
    forgotten = tuple(questions[row] for row in forget)
    paraphrased = all(question.paraphrased_question and question.paraphrased_answer for question in forgotten)
    return Sets(
        tuple(questions[row] for row in retain),
        forgotten,
        duplicates(forgotten, "semantic") if paraphrased else (),
        duplicates(forgotten, "exact"),
    )


def from_files(retain: str | os.PathLike[str], forget: str | os.PathLike[str]) -> Sets:
    """The sets of a user's own files, as `read` reads them.

    Args:
      retain: the path of what must stay.
      forget: the path of what must go.

    Returns:
      The sets, with duplicates as `sets` makes them. Rows are those of either file. Questions that are in both files are
      warned of: they would be forgotten and retained at once.
    """
    kept, forgotten = read(retain), read(forget)
    warn_of_shared(forgotten, kept, f"the forget file {forget} are in the retain file {retain}")
    both = (*kept, *forgotten)
    return sets(both, np.arange(len(kept)), np.arange(len(kept), len(both)))


def warn_of_shared(questions: Sequence[Question], others: Sequence[Question], which: str) -> None:
    """Warns of questions that are in another set too, with the same answer but for white space and the case of letters.

    Args:
      questions: the forget set, or those that no model is trained on.
      others: the set in which they should be missing.
      which: what the sets are, for the message: "the forget file F are in the retain file R".
    """

    def key(question: Question) -> tuple[str, str]:
        return " ".join((question.question or "").split()).casefold(), " ".join(question.answer.split()).casefold()

    known = {key(question) for question in others}
    shared = [question.row for question in questions if key(question) in known]
    if shared:
        rows = ", ".join(map(str, shared[:SHOWN])) + (", ..." if len(shared) > SHOWN else "")
        warnings.warn(f"{len(shared)} of {len(questions)} rows of {which} too (rows {rows}, counted from 0)", stacklevel=3)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be there."""
    if name not in fields:
        there = ", ".join(sorted(fields)) or "no fields"
        raise ValueError(f"{where}: got {there}, expected the field '{name}' (question and answer, or text)")
    (text,) = _each([fields[name]], f"{where}, field '{name}'")
    return text


def _each(texts: Any, where: str) -> Iterator[str]:
    """Texts, of one or several."""
    if not isinstance(texts, (str, list, tuple)):
        raise ValueError(f"{where}: got {texts!r}, expected a text or a list of texts")
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: got {text!r}, expected a text that is not blank")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{where}: got a lone surrogate in {text!r}, half of a character, expected whole characters")
        yield text
