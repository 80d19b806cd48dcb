"""TOFU's numbers: the published ones from the raw logs of its authors, and small cases by hand."""

import functools
import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score import tokenize
from rouge_score.tokenizers import DefaultTokenizer
from shared_data import shared_data

from hamu_jax import metrics
from hamu_jax.metrics._words import Words

# The row "Finetune Model", llama2-7b, forget10, of the TOFU leaderboard (locuslab/tofu, arXiv 2401.06121).
FORGET_QUALITY, MODEL_UTILITY = 1.834066410994743e-21, 0.6226773637427153
PUBLISHED = {  # probability, ROUGE, truth ratio
    "retain": ("retain", 0.9895, 0.9857, 0.4747),
    "real_authors": ("world", 0.4555, 0.9330, 0.5962),
    "world_facts": ("world", 0.4186, 0.8825, 0.5390),
    "forget": ("forget", 0.9909, 0.9854, 0.5160),
}


@functools.cache
def logs(model: str) -> Any:
    return json.loads(shared_data("tofu_oracle", f"llama2-7b_{model}.json").read_text(encoding="utf-8"))


def scores(name: str) -> metrics.TofuScores:
    log = logs("full")[name]
    losses = (log["avg_gt_loss"], log["average_perturb_loss"], log["rougeL_recall"])
    return metrics.tofu_scores(PUBLISHED[name][0], *losses, paraphrased_loss=log["avg_paraphrased_loss"])  # type: ignore[arg-type]


def ratios(model: str, name: str = "forget") -> Any:
    log = logs(model)[name]
    return metrics.truth_ratio(log["avg_paraphrased_loss"], log["average_perturb_loss"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scores(name: str) -> None:
    np.testing.assert_allclose(scores(name), PUBLISHED[name][1:], atol=5.1e-5)  # published to four digits


@pytest.mark.parametrize("name", ["real_authors", "world_facts"])
def test_the_world_needs_no_paraphrases(name: str) -> None:
    """They are the plain answers again; the log's two losses of one text differ by up to 2% (half precision)."""
    log = logs("full")[name]
    got = metrics.tofu_scores("world", log["avg_gt_loss"], log["average_perturb_loss"], log["rougeL_recall"])
    np.testing.assert_allclose(got, scores(name), atol=3e-4)


def test_published_model_utility() -> None:
    components = list(itertools.chain.from_iterable(scores(name) for name in PUBLISHED if name != "forget"))
    assert len(components) == 9
    np.testing.assert_allclose(metrics.model_utility(components), MODEL_UTILITY, rtol=1e-12)


def test_published_forget_quality() -> None:
    full, retain = ratios("full"), ratios("retain90")
    np.testing.assert_allclose(metrics.forget_quality(full, retain), FORGET_QUALITY, rtol=1e-12)
    np.testing.assert_allclose(metrics.forget_quality(1 / full, 1 / retain), FORGET_QUALITY, rtol=1e-12)


@pytest.mark.parametrize("model", ["full", "retain90"])
def test_logged_truth_ratios(model: str) -> None:
    for name in PUBLISHED:
        np.testing.assert_allclose(ratios(model, name), logs(model)[name]["truth_ratio"], rtol=1e-5)  # logged in float32


def test_logged_rouge() -> None:
    count = 0
    for name in PUBLISHED:
        log = logs("full")[name]
        got = [metrics.rouge_l_recall(*pair) for pair in zip(log["generated"], log["ground_truth"], strict=True)]
        np.testing.assert_array_equal(got, log["rougeL_recall"])
        count += len(got)
    assert count == 817


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1),
        ("the cat lay on a mat", "the cat sat on the mat", 4 / 6),  # the cat on mat
        ("The CAT, sat! on the mat.", "the cat sat on the mat", 1),
        ("mat the on sat cat the", "the cat sat on the mat", 3 / 6),  # order counts: the on the
        ("so I think that the cat, which is old, sat on the red mat today", "the cat sat on the mat", 1),  # more is free
        ("she writes novels", "writing a novel", 2 / 3),  # stemmed: write, novel
        ("a cat", "the dog barked", 0),
        ("", "the dog barked", 0),
        ("...", "the dog barked", 0),
    ],
)
def test_rouge_by_hand(generated: str, reference: str, expected: float) -> None:
    np.testing.assert_allclose(metrics.rouge_l_recall(generated, reference), expected, rtol=1e-12)


@pytest.mark.parametrize("reference", ["", "...", "\u2014", "\U0001f431", "\u200b\u0301"])
def test_rouge_needs_words_to_recall(reference: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"reference: got {reference!r}, expected at least one letter or digit")):
        metrics.rouge_l_recall("a cat", reference)


@pytest.mark.parametrize("pair", [("a cat", None), (b"a cat", "a cat")])
def test_rouge_is_of_texts(pair: Any) -> None:
    with pytest.raises(ValueError, match=r"^(generated|reference): got .*, expected a text$"):
        metrics.rouge_l_recall(*pair)


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [
        ("1987", "他1987年生于利马", 1 / 7),  # 他 1987 年 生 于 利 马
        ("他生于基多", "他生于利马", 3 / 5),
        ("1987", "Он родился в 1987 году", 1 / 5),
        ("Она живёт в Кито", "Она живёт в Лиме", 3 / 4),
        ("彼はリマで生まれた", "彼はキトで生まれた", 7 / 9),
        ("เขาเกิดที่", "เขา", 1),  # every character with its marks
        ("ولدت في ليما", "ولدت في كيتو", 2 / 3),
        ("그는 리마에서 태어났다", "그는 키토에서 태어났다", 2 / 3),
        ("उसका जन्म लीमा में हुआ", "उसका जन्म कीटो में हुआ", 4 / 5),  # vowel signs do not separate
        ("Γεννήθηκε στη ΛΊΜΑ", "γεννήθηκε στη λίμα", 1),
        ("une maison", "à Paris", 0),
        ("à Lima", "à Paris", 1 / 2),  # a word that is an accented letter does not vanish
        ("Cafe\u0301", "Caf\u00e9", 1),  # composed or not
        ("\u05de\u05d9", "\u200f\u05de\u05d9\u200f", 1),  # marks of direction are no letters
        ("Юля2000", "ЮЛЯ 2000", 1),
    ],
)
def test_rouge_of_other_scripts(generated: str, reference: str, expected: float) -> None:
    np.testing.assert_allclose(metrics.rouge_l_recall(generated, reference), expected, rtol=1e-12)
    assert metrics.rouge_l_recall(reference, reference) == 1


ASCII = st.text(st.characters(max_codepoint=127), max_size=60)


@given(ASCII, st.lists(st.sampled_from(["writing", "novels", "U.S.", "it's", "1,987", "a_b", "x2"]), min_size=1).map(" ".join))
def test_ascii_has_the_words_of_rouge_score(text: str, words: str) -> None:
    theirs = tokenize.tokenize(f"{text} {words}", PorterStemmer())
    assert Words(DefaultTokenizer(use_stemmer=True)).tokenize(f"{text} {words}") == theirs


@given(st.lists(st.floats(0, 20), min_size=4, max_size=4), st.floats(0, 20))
def test_the_truth_ratio_is_one_geometric_mean_over_a_probability(wrong: list[float], right: float) -> None:
    expected = np.prod(np.exp(-np.asarray(wrong))) ** (1 / 4) / np.exp(-right)
    np.testing.assert_allclose(metrics.truth_ratio([right], [wrong]), [expected], rtol=1e-12)


def test_truth_ratios_stay_finite_and_above_0() -> None:
    """A wrecked model's losses must not stop its own evaluation."""
    got = metrics.truth_ratio([5000.0, 0.0], [[0.0], [5000.0]])
    assert np.all(np.isfinite(got) & np.isfinite(1 / got))
    forget = metrics.tofu_scores("forget", [9.0, 9.0], [[0.0], [5000.0]], [0.0, 0.0], paraphrased_loss=[5000.0, 0.0])
    assert 0 <= forget.truth_ratio < 1e-300


def test_scores_by_hand() -> None:
    half, quarter = np.log(2), np.log(4)
    losses = ([half, half], [[half, half], [quarter, quarter]], [0.25, 0.75])
    # R is 1 and 1/2 with paraphrases at `half`, 2 and 1 with paraphrases at `quarter`.
    world = metrics.tofu_scores("world", *losses)
    np.testing.assert_allclose(world, [(1 / 3 + 1 / 2) / 2, 0.5, (0 + 1 / 2) / 2])
    retain = metrics.tofu_scores("retain", *losses, paraphrased_loss=[quarter, quarter])
    np.testing.assert_allclose(retain, [0.5, 0.5, 0])
    forget = metrics.tofu_scores("forget", *losses, paraphrased_loss=[quarter, quarter])
    np.testing.assert_allclose(forget, [0.5, 0.5, (1 / 2 + 1) / 2])


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=9))
def test_model_utility_is_the_harmonic_mean(components: list[float]) -> None:
    np.testing.assert_allclose(metrics.model_utility(components), 1 / np.mean(1 / np.asarray(components)), rtol=1e-12)
    assert metrics.model_utility([*components, 0.0]) == 0


def test_forget_quality_of_small_samples() -> None:
    """Of two samples of n that don't overlap: 2 / binomial(2n, n), of equal ones 1."""
    assert metrics.forget_quality([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    np.testing.assert_allclose(metrics.forget_quality([1, 2, 3, 4], [5, 6, 7, 8]), 2 / 70)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.truth_ratio([1.0, 2.0], [[1.0]]),
            "perturbed_losses: got 1 examples, expected 2 as in para",
        ),
        (lambda: metrics.truth_ratio([1.0], [1.0]), "perturbed_losses: got shape (1,), expected [n, k], with at least one"),
        (lambda: metrics.truth_ratio([], [[1.0]]), "paraphrased_loss: got shape (0,), expected [n], with at least one"),
        (lambda: metrics.truth_ratio([1.0], [[1.0, np.nan]]), "perturbed_losses[0, 1]: got nan, expected a finite number"),
        (
            lambda: metrics.tofu_scores("test", [1.0], [[1.0]], [1.0]),
            "kind: got 'test', expected 'forget', 'retain' or 'world'",
        ),
        (lambda: metrics.tofu_scores("forget", [1.0], [[1.0]], [1.0]), "paraphrased_loss: got None, expected the losses"),
        (lambda: metrics.tofu_scores("world", [1.0], [[1.0]], [1.0, 0.5]), "rouge: got 2 examples, expected 1 as in loss"),
        (lambda: metrics.tofu_scores("world", [1.0], [[1.0]], [7.0]), "rouge[0]: got 7.0, expected a number from 0 to 1"),
        (lambda: metrics.tofu_scores("world", [-1.0], [[1.0]], [0.5]), "loss[0]: got -1.0, expected a loss of at least 0"),
        (lambda: metrics.truth_ratio([1.0], [[1.0, -3.0]]), "perturbed_losses[0, 1]: got -3.0, expected a loss of at least 0"),
        (lambda: metrics.model_utility([]), "components: got shape (0,)"),
        (lambda: metrics.model_utility([0.5, 1.5]), "components[1]: got 1.5, expected a number from 0 to 1"),
        (lambda: metrics.model_utility([-0.5]), "components[0]: got -0.5, expected a number from 0 to 1"),
        (lambda: metrics.model_utility([0.5, np.nan]), "components[1]: got nan, expected a finite number"),
        (lambda: metrics.forget_quality([], [1.0]), "unlearned_ratios: got shape (0,)"),
        (lambda: metrics.forget_quality([1.0], [np.inf]), "retain_ratios[0]: got inf, expected a finite number"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_every_letter_and_digit_makes_a_word() -> None:
    """What `str.isalnum` says decides whether an answer can be compared at all."""
    words = Words(DefaultTokenizer(use_stemmer=True))
    for code in range(0, 0x20000, 7):
        assert bool(words.tokenize(chr(code))) == chr(code).isalnum()
