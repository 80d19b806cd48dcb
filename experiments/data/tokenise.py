"""Questions to arrays of tokens, in which the answer's tokens, and only they, are labels."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.data.questions import Question
from experiments.data.tokenizer import Tokenizer

Tokens = dict[str, np.ndarray]
PADDING = -1  # as label


class Encoded(NamedTuple):
    """One question: its tokens, of which the first `prompt` are not the answer; the last one ends it."""

    tokens: list[int]
    prompt: int


def tokenise(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncate: bool = False,
    answer_only: bool = True,
    multiple: int = 16,
) -> Tokens:
    """Examples for a causal language model, aligned: `label[:, t]` is the token after `tokens[:, t]`, or -1.

    The question and whatever the template puts around it are not counted; the answer's tokens and the end token are. What the
    template puts after that is left out. Of a plain text all tokens are counted, up to an end token. Sequences are filled up
    at their end: a causal model's logits of real tokens don't depend on it, and needs no mask.

    Args:
      questions: `n` of them.
      tokenizer: with the template to use.
      max_length: the longest sequence allowed, in tokens. None: any.
      truncate: cut off the end of an answer that does not fit, with a warning. Else it is an error.
      answer_only: False counts every token that has one before it.
      multiple: the common length is rounded up to a multiple of this, so that few shapes occur.

    Returns:
      `tokens` and `label`, int32 `[n, length]`, and `mask`, bool `[n, length]`, which is True for real tokens.

    Raises:
      ValueError: naming the row, for a sequence that is too long, an answer of which nothing would be left, or a template
        that does not put the answer after its prompt; for no questions, or a length or multiple below 1.
    """
    if not questions:
        raise ValueError("questions: got none, expected at least one")
    for name, number in (("multiple", multiple), ("max_length", max_length)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: got {number}, expected a number of at least 1")
    encoded = _fitted(questions, [encode(question, tokenizer) for question in questions], max_length, truncate)
    # The last token is a label only: nothing is predicted from it.
    lengths = np.array([len(sequence.tokens) - 1 for sequence in encoded])
    shape = len(encoded), -(-int(lengths.max()) // multiple) * multiple
    tokens, label = np.full(shape, tokenizer.pad, np.int32), np.full(shape, PADDING, np.int32)
    for row, (one, length) in enumerate(zip(encoded, lengths, strict=True)):
        tokens[row, :length] = one.tokens[:-1]
        first = max(one.prompt - 1, 0) if answer_only else 0
        label[row, first:length] = one.tokens[first + 1 :]
    return {"tokens": tokens, "label": label, "mask": np.arange(shape[1])[None] < lengths[:, None]}


def encode(question: Question, tokenizer: Tokenizer) -> Encoded:
    """One question's tokens.

    Raises:
      ValueError: as `tokenise`.
    """
    if question.question is None:
        tokens = tokenizer.encode(question.answer, special=True)
        tokens = tokens if tokens[-1:] == [tokenizer.end] else [*tokens, tokenizer.end]
        return Encoded(tokens, len(tokens) - len(tokenizer.encode(question.answer)) - 1)
    asked = [{"role": "user", "content": question.question}]
    before = tokenizer.render(asked, prompt=True)
    whole = tokenizer.render([*asked, {"role": "assistant", "content": question.answer}], prompt=False)
    prompt, tokens = tokenizer.encode(before), tokenizer.encode(whole)
    if tokens[: len(prompt)] != prompt:
        raise ValueError(
            f"template: got one whose prompt, for row {question.row}, is not how the tokens of prompt and answer begin, "
            "expected the answer to follow it"
        )
    ends = [row for row, token in enumerate(tokens) if token == tokenizer.end and row >= len(prompt)]
    return Encoded(tokens[: ends[-1] + 1] if ends else [*tokens, tokenizer.end], len(prompt))


def prompts(questions: Sequence[Question], tokenizer: Tokenizer) -> tuple[Int[np.ndarray, " length"], ...]:
    """What to generate answers from: of each question its tokens up to the answer, int32, not filled up.

    They are the tokens that precede the answer in `tokenise`; generation ends with `tokenizer.end`.

    Raises:
      ValueError: for a plain text, which has no prompt.
    """
    for question in questions:
        if question.question is None:
            raise ValueError(f"questions: got a plain text in row {question.row}, expected a question")
    encoded = (encode(question, tokenizer) for question in questions)
    return tuple(np.array(sequence.tokens[: sequence.prompt], np.int32) for sequence in encoded)


def padding(data: Tokens) -> float:
    """The share of padding among all tokens."""
    return float(1 - data["mask"].mean())


def _fitted(questions: Sequence[Question], encoded: list[Encoded], max_length: int | None, truncate: bool) -> list[Encoded]:
    """The same, cut off where that is needed and allowed. An input of `max_length` tokens has one label more."""
    if max_length is None:
        return encoded
    long = [row for row, sequence in enumerate(encoded) if len(sequence.tokens) - 1 > max_length]
    for row in long:
        if not truncate or encoded[row].prompt > max_length:
            sequence, more = encoded[row], "more" if truncate else "more, or truncate=True"
            needed = f"row {questions[row].row}, of {len(sequence.tokens) - 1} tokens, {sequence.prompt} before its answer"
            raise ValueError(f"max_length: got {max_length} for {needed}, expected {more}")
    if long:
        rows = ", ".join(str(questions[row].row) for row in long[:5]) + (", ..." if len(long) > 5 else "")  # noqa: PLR2004
        warnings.warn(f"{len(long)} of {len(encoded)} answers were cut off at {max_length} tokens (rows {rows})", stacklevel=3)
    return [Encoded(sequence.tokens[: max_length + 1], sequence.prompt) for sequence in encoded]
