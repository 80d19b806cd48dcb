"""ROUGE: how many words of a text come back in what a model writes."""

import functools
from typing import Any, NamedTuple

from hamu_jax._base import optional
from hamu_jax.metrics._words import Words


class Rouge(NamedTuple):
    """What `rouge` returns, each from 0 to 1.

    Attributes:
      rouge_1_recall: the reference's words that were written, in any order.
      rouge_l_recall: those in the order of the reference.
      rouge_l_f1: the harmonic mean of that and of the share of written words that they are: a long answer costs.
    """

    rouge_1_recall: float
    rouge_l_recall: float
    rouge_l_f1: float


def rouge(generated: str, reference: str) -> Rouge:
    """ROUGE-1 recall, ROUGE-L recall and ROUGE-L F1, of texts in any script, with the words of `rouge_l_recall`.

    TOFU reports ROUGE-L recall. MUSE (arXiv 2407.06460) reports its mean over answers as knowledge memorisation, and the mean
    ROUGE-L F1 of continuations as verbatim memorisation.

    Args:
      generated: what the model wrote.
      reference: what it should have written, for a question of the forget set what it should not.

    Raises:
      ValueError: if the reference has no word.
      ImportError: naming the extra, if rouge-score is missing.

    Example:
      >>> rouge("On a mat the cat slept", "a cat slept")
      Rouge(rouge_1_recall=1.0, rouge_l_recall=1.0, rouge_l_f1=0.6666666666666666)

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", sections 2 and 3.
    """
    for name, text in (("generated", generated), ("reference", reference)):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  (callers are not all typed)
            raise ValueError(f"{name}: got {text!r}, expected a text")
    scorer, words = _scorer()
    if not words.tokenize(reference):
        raise ValueError(f"reference: got {reference!r}, expected at least one letter or digit")
    scores = scorer.score(reference, generated)
    return Rouge(float(scores["rouge1"].recall), float(scores["rougeL"].recall), float(scores["rougeL"].fmeasure))


def rouge_l_recall(generated: str, reference: str) -> float:
    """ROUGE-L recall: the longest common subsequence of words, as a fraction of the reference's words.

    Lin 2004, "ROUGE: a package for automatic evaluation of summaries", equation 2, as rouge-score computes it, which TOFU
    uses: lower case, words of more than three letters stemmed, an accented Latin letter separates words. rouge-score deletes
    other scripts; here their letters and digits make words too, and where a script has no spaces between words (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese) every character is a word. Order counts, nearness doesn't, and text that is generated
    on top costs nothing.

    Args:
      generated: what the model wrote.
      reference: what it should have written, for a question of the forget set what it should not.

    Returns:
      A number from 0 to 1.

    Raises:
      ValueError: if the reference has no word.
      ImportError: naming the extra, if rouge-score is missing.

    Example:
      >>> rouge_l_recall("The cat slept on the mat.", "a cat on a mat")
      0.6
      >>> rouge_l_recall("Она родилась в Лиме.", "Она родилась в Кито.")
      0.75
    """
    return rouge(generated, reference).rouge_l_recall


@functools.cache
def _scorer() -> tuple[Any, Words]:
    """The scorer and its tokenizer, made once: it builds a stemmer."""
    words = Words(optional.require("rouge_score.tokenizers", "metrics").DefaultTokenizer(use_stemmer=True))
    return optional.require("rouge_score.rouge_scorer", "metrics").RougeScorer(["rouge1", "rougeL"], tokenizer=words), words
