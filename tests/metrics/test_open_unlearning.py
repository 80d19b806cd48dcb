"""OpenUnlearning's own numbers of the same logits, losses and texts: see `data/make_open_unlearning_fixtures.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hamu_jax import metrics

FIXTURE = np.load(Path(__file__).parents[1] / "data" / "open_unlearning.npz")
# Logits predict the token after them.
BATCH = {
    "logits": FIXTURE["logits"][:, :-1],
    "label": np.where(FIXTURE["counted"], FIXTURE["tokens"], -1)[:, 1:],
}


def apply(params: Any, batch: Any) -> Any:
    del params
    return batch["logits"]


def values(metric: Callable[..., metrics.Metric], **options: Any) -> Any:
    return np.asarray(metric(apply, end_token=False, **options)(None, BATCH))


def test_exact_memorisation() -> None:
    np.testing.assert_allclose(values(metrics.exact_memorisation), FIXTURE["exact_memorisation"], atol=1e-6)


def test_extraction_strength_but_for_texts_of_which_nothing_is_right() -> None:
    """Theirs is then `1 / n`, of the `n` tokens before the last; it happens in the fixture."""
    got, tokens = values(metrics.extraction_strength), FIXTURE["counted"].sum(axis=1) - 1
    assert (got == 0).any()
    np.testing.assert_allclose(np.where(got == 0, 1 / tokens, got), FIXTURE["extraction_strength"], atol=1e-6)


@pytest.mark.parametrize("name", ["min_k", "min_k_plus_plus"])
def test_min_k(name: str) -> None:
    """Theirs is the negative: high for data that is not a member. It is in float32, a difference of squares."""
    np.testing.assert_allclose(-values(getattr(metrics, name), fraction=0.4), FIXTURE[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["exact_memorisation", "extraction_strength", "min_k", "min_k_plus_plus"])
def test_the_end_token_counts_by_default(name: str) -> None:
    metric = getattr(metrics, name)
    shorter = np.array(BATCH["label"])
    for row in shorter:
        row[np.flatnonzero(row >= 0)[-1]] = -1
    np.testing.assert_array_equal(metric(apply)(None, BATCH | {"label": shorter}), values(metric))
    assert np.any(np.asarray(metric(apply)(None, BATCH)) != values(metric))


def test_a_text_of_one_token_has_nothing_but_its_end() -> None:
    batch = {"logits": np.zeros((1, 2, 3), np.float32), "label": np.array([[2, -1]])}
    metric = metrics.exact_memorisation(apply, end_token=False)
    assert float(metric(None, batch)[0]) == float(metric.weights(batch)[0]) == 0


@pytest.mark.parametrize("aggregate", ["closer_to_1_better", "true_better", "prob_mean"])
def test_truth_ratio(aggregate: Any) -> None:
    ratios = metrics.truth_ratio(FIXTURE["right"], FIXTURE["wrong"][:, None])
    np.testing.assert_allclose(metrics.mean_truth_ratio(ratios, aggregate), FIXTURE[aggregate], rtol=1e-8)


def test_privacy_leakage() -> None:
    got = [metrics.privacy_leakage(auc, retrained) for auc, retrained in FIXTURE["aucs"].tolist()]
    np.testing.assert_allclose(got, FIXTURE["privleak"], rtol=1e-8)


def test_rouge() -> None:
    got = [metrics.rouge(*pair) for pair in FIXTURE["texts"].tolist()]
    np.testing.assert_allclose(got, FIXTURE["rouge"], rtol=1e-12)
    assert [metrics.rouge_l_recall(*pair) for pair in FIXTURE["texts"].tolist()] == [each.rouge_l_recall for each in got]
