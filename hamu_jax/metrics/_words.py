"""Words of a text in any script, for ROUGE."""

import unicodedata
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

_Kind: TypeAlias = Literal["latin", "other", "character", "mark", "ignored"]

# Scripts that are written without spaces between words: every character is a word.
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


class Words:
    """A tokenizer for rouge-score: its own words where a text is written with Latin letters, and words of every other script.

    rouge-score's tokenizer deletes everything but a-z and 0-9: a text in another script has no words at all, or only the digits
    in it. Here letters and digits of other scripts make words of their own. Text in ASCII gives what rouge-score gives. A Latin
    letter with an accent separates words, as it does there (TOFU's published numbers depend on it), except in a word that would
    vanish, such as the French "à".

    Args:
      plain: rouge-score's tokenizer.
    """

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def tokenize(self, text: str) -> list[str]:
        """The words in their order, in lower case; those that rouge-score knows are stemmed as it does."""
        return [word for run in _runs(text) for word in self._plain.tokenize(run) or [run]]


def _runs(text: str) -> Iterator[str]:
    """Runs of letters and digits of one script; characters of a script without spaces are a run each."""
    run, current = "", None
    for character in unicodedata.normalize("NFC", text).lower():
        kind = _kind(character)
        if kind == "mark" and not run:  # a modifier letter begins a word of its own, an accent on nothing is none
            kind = "other" if character.isalpha() else "ignored"
        if kind == "ignored":
            continue
        if kind == "mark" or (kind == current and kind in ("latin", "other")):
            run += character
            continue
        if run:
            yield run
        run, current = ("" if kind is None else character), kind
    if run:
        yield run


def _kind(character: str) -> _Kind | None:
    """What a character is to words: of a Latin or another word, a word itself, a mark on what is before, ignored, or None."""
    category = unicodedata.category(character)
    if category == "Cf":  # joiners, soft hyphens, marks of direction: they are inside words and invisible
        return "ignored"
    if category[0] == "M" or category == "Lm":
        return "mark"
    if category[0] not in "LN":
        return None
    name = unicodedata.name(character, "")
    if character.isascii() or name.startswith("LATIN"):
        return "latin"
    return "character" if name.startswith(_SPACELESS) else "other"
