"""Membership inference: against counting pairs, and scipy's rank-sum statistic."""

import re
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hamu_jax import metrics, objectives

SMALL = st.lists(st.integers(-3, 3), min_size=1, max_size=12)  # few values: many ties
WIDE = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=12)


@given(st.one_of(st.tuples(SMALL, SMALL), st.tuples(WIDE, WIDE)))
def test_auc_is_the_share_of_pairs(sets: Any) -> None:
    negatives, positives = (np.asarray(values, np.float64) for values in sets)
    got = metrics.auc(negatives, positives)
    above, equal = (np.mean(f(positives[:, None], negatives[None])) for f in (np.greater, np.equal))
    np.testing.assert_allclose(got, above + equal / 2, atol=1e-12)
    statistic = scipy.stats.mannwhitneyu(positives, negatives, method="asymptotic").statistic
    np.testing.assert_allclose(got, statistic / (len(positives) * len(negatives)), atol=1e-12)
    np.testing.assert_allclose(metrics.auc(positives, negatives), 1 - got, atol=1e-12)
    np.testing.assert_allclose(metrics.auc(jnp.asarray(sets[0]), jnp.asarray(sets[1])), got, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -7.25, 1e-300])
def test_constants_say_nothing(value: float) -> None:
    assert metrics.auc(np.full(3, value), np.full(5, value)) == 0.5


def test_membership_by_loss_and_by_log_probability() -> None:
    rng = np.random.default_rng(0)
    retain, forget, test = rng.normal(0, 1, 40), rng.normal(1, 1, 30), rng.normal(1.5, 1, 50)
    got = metrics.membership_auc(retain, forget, test)
    np.testing.assert_allclose(got.retain_forget, np.mean(forget[:, None] > retain[None]))
    np.testing.assert_allclose(got.forget_test, np.mean(test[:, None] > forget[None]))
    np.testing.assert_allclose(metrics.membership_auc(-retain, -forget, -test, members="high"), got)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "positives: got shape (0,), expected [n], with at least one number"),
        ([[1.0, 2.0]], "positives: got shape (1, 2), expected [n], with at least one number"),
        (1.0, "positives: got shape (), expected [n], with at least one number"),
        ([0.0, np.nan], "positives[1]: got nan, expected a finite number"),
        ([np.inf], "positives[0]: got inf, expected a finite number"),
    ],
)
def test_errors(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        metrics.auc([1.0], values)
    name = message.replace("positives", "forget")
    with pytest.raises(ValueError, match=re.escape(name)):
        metrics.membership_auc([1.0], values, [1.0])


def test_members_are_low_or_high() -> None:
    with pytest.raises(ValueError, match="members: got 'loss', expected 'low' or 'high'"):
        metrics.membership_auc([1.0], [1.0], [1.0], members="loss")  # type: ignore[arg-type]


KERNEL = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
DATA = {
    "x": np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32),
    "label": np.array([0, 1, -1, 3, 2, -1, 0]),
}


def logits(params: Any, batch: Any) -> Any:
    return batch["x"] @ params


@pytest.mark.parametrize("batch_size", [3, 1024])
def test_values_of_every_example_but_padding(batch_size: int) -> None:
    for metric in (objectives.cross_entropy(logits), metrics.entropy(logits)):
        got = metrics.values(metric, KERNEL, DATA, batch_size=batch_size)
        assert isinstance(got, np.ndarray)
        np.testing.assert_allclose(got, np.asarray(metric(KERNEL, DATA))[DATA["label"] >= 0], rtol=1e-6)


def test_a_value_that_is_not_finite_is_not_taken_for_padding() -> None:
    broken = {**DATA, "x": np.where(np.arange(7)[:, None] == 3, np.float32(np.nan), DATA["x"])}
    found = metrics.values(metrics.entropy(logits), KERNEL, broken)
    np.testing.assert_array_equal(np.isnan(found), [False, False, True, False, False])
    with pytest.raises(ValueError, match=re.escape("negatives[2]: got nan")):
        metrics.auc(found, [1.0])


def test_values_errors() -> None:
    with pytest.raises(ValueError, match="data: got 0 examples"):
        metrics.values(metrics.entropy(logits), KERNEL, {name: value[:0] for name, value in DATA.items()})
    with pytest.raises(ValueError, match=re.escape("metric: got a result of shape () for data of 7 examples")):
        metrics.values(lambda _, batch: jnp.sum(batch["x"]), KERNEL, DATA)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        metrics.values(metrics.entropy(logits), KERNEL, DATA, batch_size=0)


def test_values_looks_at_the_labels() -> None:
    beyond = {**DATA, "label": np.array([0, 1, -1, 3, 4, -1, 0])}
    for metric in (metrics.accuracy(logits), metrics.probability(logits), objectives.cross_entropy(logits)):
        with pytest.raises(ValueError, match=re.escape("data['label']: got label 4 at example 4, expected 0 to 3, or -1")):
            metrics.values(metric, KERNEL, beyond)
    np.testing.assert_array_equal(  # which class it is does not matter to these
        metrics.values(metrics.entropy(logits), KERNEL, beyond), metrics.values(metrics.entropy(logits), KERNEL, DATA)
    )


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=re.escape('sklearn.metrics is not installed: pip install "hamu_jax[metrics]"')):
        metrics.auc([1.0], [2.0])


def test_importing_the_package_brings_none_of_them() -> None:
    program = "import sys, hamu_jax; print([name for name in ('sklearn', 'scipy.stats', 'rouge_score') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr
