"""Comparisons with a retrained model, and multiple choice, by hand and against scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from hamu_jax import metrics


def test_tug_of_war_by_hand() -> None:
    """Differences of .1, .2 and 0."""
    assert metrics.tug_of_war([0.5, 0.7, 0.9], [0.6, 0.9, 0.9]) == pytest.approx(0.9 * 0.8)
    assert metrics.tug_of_war([1.0, 0.3], [0.0, 0.3]) == 0


def test_leakage_is_zero_only_for_the_retrained_models_auc() -> None:
    assert metrics.privacy_leakage(0.6, 0.6) == 0
    assert metrics.privacy_leakage(0.7, 0.6) < 0 < metrics.privacy_leakage(0.5, 0.6)


def test_choices_are_counted_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    losses, answer = rng.uniform(size=(50, 4)), rng.integers(0, 4, 50)
    assert metrics.choice_accuracy(losses, answer) == pytest.approx(accuracy_score(answer, losses.argmin(axis=1)))
    assert metrics.choice_accuracy(np.zeros((2, 3)), [0, 1]) == 0.5


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: metrics.tug_of_war([0.5], [0.5, 0.1]), "retrained: got 2 accuracies, expected 1 as in unlearned"),
        (lambda: metrics.tug_of_war([50.0], [0.5]), r"unlearned\[0\]: got 50.0, expected a number from 0 to 1"),
        (lambda: metrics.privacy_leakage(0.5, 1.0), "retrained_auc: got 1, expected a number below 1"),
        (lambda: metrics.privacy_leakage(2.0), r"auc\[0\]: got 2.0, expected a number from 0 to 1"),
        (lambda: metrics.choice_accuracy([[1.0, 2.0]], [2]), r"answer\[0\]: got 2, expected 0 to 1"),
        (lambda: metrics.choice_accuracy([[1.0, 2.0]], [0.0]), r"answer: got float64 of shape \(1,\), expected integers"),
        (lambda: metrics.choice_accuracy([1.0, 2.0], [0, 1]), r"losses: got shape \(2,\), expected \[n, k\]"),
        (lambda: metrics.mean_truth_ratio([1.0], "mean"), "aggregate: got 'mean', expected one of closer_to_1_better"),  # type: ignore[arg-type]
        (lambda: metrics.mean_truth_ratio([-1.0], "prob_mean"), r"ratios\[0\]: got -1.0, expected a ratio of at least 0"),
        (lambda: metrics.rouge("a", "!"), "reference: got '!', expected at least one letter or digit"),
    ],
)
def test_bad_input_is_named(function: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function()
