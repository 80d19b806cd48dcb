"""Numbers about predictions, against plain numpy in float64."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array, Float

import hamu_jax
from hamu_jax import metrics, objectives

BATCH, TIME, CLASSES = 6, 7, 5
FRACTIONS = (0.2, 0.5, 1.0)


def apply(params: Any, batch: Any) -> Any:
    """The parameters are the logits."""
    del batch
    return params


SEQUENCES = {
    "accuracy": metrics.accuracy(apply),
    "entropy": metrics.entropy(apply),
    "probability": metrics.probability(apply),
    "kl_divergence": metrics.kl_divergence(apply, "retrained"),
    "agreement": metrics.agreement(apply, lambda batch: batch["retrained"]),
    **{f"min_k {f}": metrics.min_k(apply, fraction=f) for f in FRACTIONS},
    **{f"min_k_plus_plus {f}": metrics.min_k_plus_plus(apply, fraction=f) for f in FRACTIONS},
}
PLUS_PLUS = jax.jit(metrics.min_k_plus_plus(apply, fraction=1.0))
EXAMPLES = {name: metric for name, metric in SEQUENCES.items() if "min_k" not in name}


@jax.jit
def all_metrics(logits: Array, batch: Any) -> dict[str, Array]:
    kept = SEQUENCES if logits.ndim == 3 else EXAMPLES
    return {name: metric(logits, batch) for name, metric in kept.items()}


def log_softmax(logits: Float[np.ndarray, "time classes"]) -> Float[np.ndarray, "time classes"]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def lowest(scores: Float[np.ndarray, " time"], fraction: float) -> float:
    return float(np.mean(sorted(scores)[: max(1, int(fraction * len(scores)))]))


def by_hand(logits: Any, labels: Any, retrained: Any) -> dict[str, float]:
    """One sequence."""
    real = labels >= 0
    if not real.any():
        return dict.fromkeys(SEQUENCES, 0.0)
    model, other, label = log_softmax(logits[real]), log_softmax(retrained[real]), labels[real]
    own = np.array([row[i] for row, i in zip(model, label, strict=True)])
    mu = np.sum(np.exp(model) * model, axis=-1)
    sigma = np.sqrt(np.sum(np.exp(model) * (model - mu[:, None]) ** 2, axis=-1))
    return {
        "accuracy": np.mean(model.argmax(axis=-1) == label),
        "entropy": np.mean(-mu),
        "probability": np.prod(np.exp(own)) ** (1 / len(own)),
        "kl_divergence": np.mean(np.sum(np.exp(other) * (other - model), axis=-1)),
        "agreement": np.mean(model.argmax(axis=-1) == other.argmax(axis=-1)),
        **{f"min_k {f}": lowest(own, f) for f in FRACTIONS},
        **{f"min_k_plus_plus {f}": lowest((own - mu) / sigma, f) for f in FRACTIONS},
    }


def sequences(seed: int, share: float = 0.7, dtype: Any = np.float32) -> tuple[Any, dict[str, Any]]:
    """Logits and a batch in which about this share of labels is real."""
    rng = np.random.default_rng(seed)
    logits, retrained = (rng.normal(scale=2, size=(BATCH, TIME, CLASSES)).astype(dtype) for _ in range(2))
    labels = np.where(rng.random((BATCH, TIME)) < share, rng.integers(0, CLASSES, (BATCH, TIME)), -1)
    return logits, {"label": labels, "retrained": retrained}


def compare(logits: Any, batch: Any, *, rtol: float = 2e-5) -> None:
    got = all_metrics(logits, batch)
    for i in range(BATCH):
        expected = by_hand(np.atleast_2d(logits[i]), np.atleast_1d(batch["label"][i]), np.atleast_2d(batch["retrained"][i]))
        for name, values in got.items():
            np.testing.assert_allclose(values[i], expected[name], rtol=rtol, atol=rtol, err_msg=f"{name}, example {i}")


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_sequences(seed: int, share: float) -> None:
    compare(*sequences(seed, share))


@given(seed=st.integers(0, 2**32 - 1))
def test_single_labels(seed: int) -> None:
    logits, batch = sequences(seed)
    compare(logits[:, 0], {name: value[:, 0] for name, value in batch.items()})


@pytest.mark.usefixtures("x64")
def test_float64() -> None:
    compare(*sequences(0, dtype=np.float64), rtol=1e-12)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits, batch = sequences(1)
    rounded = jnp.asarray(logits, jnp.bfloat16)
    got, expected = all_metrics(rounded, batch), all_metrics(np.asarray(rounded, np.float32), batch)
    for name, values in got.items():
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, err_msg=name)


def test_padding_counts_nothing_whatever_stands_there() -> None:
    logits, batch = sequences(2)
    batch["label"][3] = -1
    expected = all_metrics(logits, batch)
    hidden = np.where((batch["label"] < 0)[..., None], np.nan, logits)
    for name, values in all_metrics(hidden, batch).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
        assert values[3] == 0
        np.testing.assert_array_equal(SEQUENCES[name].weights(batch), [1, 1, 1, 0, 1, 1])


def test_a_logit_that_is_nan_shows() -> None:
    """`argmax` takes NaN for the largest, `sort` puts it last: a broken model would look right."""
    logits, batch = sequences(3, share=1.0)
    logits[1, 2, 4] = np.nan
    for name, values in all_metrics(logits, batch).items():
        np.testing.assert_array_equal(np.isnan(values), np.arange(BATCH) == 1, err_msg=name)
    broken = batch["retrained"].copy()
    broken[2, 0, 0] = np.nan
    for name in ("kl_divergence", "agreement"):
        values = all_metrics(logits, {**batch, "retrained": broken})[name]
        np.testing.assert_array_equal(np.isnan(values), (np.arange(BATCH) == 1) | (np.arange(BATCH) == 2), err_msg=name)


def test_classes_that_are_ruled_out() -> None:
    """A logit of -inf in both models: the numbers are those of the classes that are left."""
    logits, batch = sequences(4, share=1.0)
    batch["label"] %= CLASSES - 1
    for array in (logits, batch["retrained"]):
        array[..., -1] = -np.inf
    got = all_metrics(logits, batch)
    rest = all_metrics(logits[..., :-1], {**batch, "retrained": batch["retrained"][..., :-1]})
    for name, values in got.items():
        np.testing.assert_allclose(values, rest[name], rtol=1e-6, err_msg=name)


def test_the_same_model() -> None:
    logits, batch = sequences(5, share=1.0)
    got = all_metrics(logits, {**batch, "retrained": logits + np.float32(100)})
    np.testing.assert_allclose(got["kl_divergence"], 0, atol=1e-5)  # the logits' rounding at 100
    assert np.all(np.asarray(got["kl_divergence"]) >= 0)
    np.testing.assert_array_equal(got["agreement"], 1)


def test_min_k_plus_plus_without_spread() -> None:
    """All tokens alike: the score is 0, not rounding over rounding."""
    for level in (0.0, 37.3):
        logits = np.full((1, 1, 50_000), level, np.float32)
        np.testing.assert_array_equal(PLUS_PLUS(logits, {"label": np.array([[7]])}), 0)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 3.0])
def test_min_k_plus_plus_of_a_large_vocabulary(scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=scale, size=(1, 1, 50_000)).astype(np.float32)
    label = rng.integers(0, 50_000, (1, 1))
    expected = by_hand(logits[0], label[0], logits[0])["min_k_plus_plus 1.0"]
    np.testing.assert_allclose(PLUS_PLUS(logits, {"label": label}), [expected], rtol=3e-6)


def certain(gap: float) -> tuple[float, float]:
    """Min-k%++ of the likely token and of one of three others, whose logits are lower by `gap`."""
    logits = np.zeros((2, 1, 4), np.float32)
    logits[:, :, 0] = gap
    likely, unlikely = PLUS_PLUS(logits, {"label": np.array([[0], [1]])})
    return float(likely), float(unlikely)


@pytest.mark.parametrize("gap", [20.0, 80.0])
def test_min_k_plus_plus_of_certain_predictions(gap: float) -> None:
    """With e of the probability left for the others: sqrt(e) and -1 / sqrt(e) deviations, up to a factor 1 + O(e)."""
    root = np.sqrt(3) * np.exp(-gap / 2)
    np.testing.assert_allclose(certain(gap), [root, -1 / root], rtol=1e-5)


def test_min_k_plus_plus_where_the_rest_has_no_probability_in_float32() -> None:
    for gap in (100.0, 1e4):
        likely, unlikely = certain(gap)
        assert likely == 0
        assert np.isfinite(unlikely)
        assert unlikely < certain(80.0)[1]


def test_how_many_tokens_count_is_rounded_down_but_never_to_none() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.0625], np.float32))
    logits = np.stack([logits, np.log1p(-np.exp(logits))], axis=-1)[None]
    counts = {0.01: 1, 0.49: 1, 0.5: 2, 0.74: 2, 0.75: 3, 1: 4}
    named = [metrics.min_k(apply, fraction=fraction) for fraction in counts]
    got = jax.jit(lambda *args: [metric(*args)[0] for metric in named])(logits, {"label": np.zeros((1, 4), int)})
    np.testing.assert_allclose(got, [logits[0, -count:, 0].mean() for count in counts.values()], rtol=1e-6)


def test_they_compose_with_evaluate() -> None:
    """Means over data sets in batches, padding left out by the weights of the loss."""
    logits, batch = sequences(6)
    batch |= {"logits": logits}
    batch["label"][[0, 4]] = -1
    named = {
        "accuracy": metrics.accuracy(lambda _, batch: batch["logits"]),
        "min_k": metrics.min_k(lambda _, batch: batch["logits"], fraction=0.5),
    }
    loss = metrics.probability(lambda _, batch: batch["logits"])  # whose padding is that of any loss of these labels
    got = hamu_jax.evaluate(loss, 0.0, {"test": batch}, named, batch_size=4)
    rows = [by_hand(logits[i], batch["label"][i], batch["retrained"][i]) for i in (1, 2, 3, 5)]
    for column, name in (("loss", "probability"), ("accuracy", "accuracy"), ("min_k", "min_k 0.5")):
        np.testing.assert_allclose(got[f"test/{column}"], np.mean([row[name] for row in rows]), rtol=1e-5)


def test_a_loss_weighted_by_tokens_makes_it_the_accuracy_of_all_tokens() -> None:
    class Loss:
        def __call__(self, params: Any, batch: Any) -> Any:
            del params
            return jnp.zeros(batch["label"].shape[0])

        def weights(self, batch: Any) -> Any:
            return jnp.sum(batch["label"] >= 0, axis=1, dtype=jnp.int32)

    logits, batch = sequences(7)
    metric = metrics.accuracy(lambda _, batch: batch["logits"])
    got = hamu_jax.evaluate(Loss(), 0.0, {"test": {**batch, "logits": logits}}, {"accuracy": metric})
    real = batch["label"] >= 0
    np.testing.assert_allclose(got["test/accuracy"], np.mean(logits.argmax(axis=-1)[real] == batch["label"][real]), rtol=1e-6)


def test_padding_agrees_with_cross_entropy() -> None:
    labels = {"label": np.array([2, -1, 0]), "other": np.array([-1, 1, 0])}
    for label in labels:
        np.testing.assert_array_equal(
            metrics.accuracy(apply, label=label).weights(labels), objectives.cross_entropy(apply, label=label).weights(labels)
        )


def test_metrics_made_alike_are_equal() -> None:
    """So that jit does not compile again."""
    for make in (metrics.accuracy, metrics.min_k, metrics.min_k_plus_plus):
        assert make(apply) == make(apply)
        assert hash(make(apply)) == hash(make(apply))
    assert metrics.min_k(apply) != metrics.min_k(apply, fraction=0.1)
    assert metrics.min_k(apply) != metrics.min_k_plus_plus(apply)
    assert metrics.agreement(apply, "a") != metrics.agreement(apply, "b")


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), True])
def test_fractions(fraction: Any) -> None:
    with pytest.raises(ValueError, match=f"fraction: got {fraction}, expected a number above 0, at most 1"):
        metrics.min_k(apply, fraction=fraction)
    with pytest.raises(ValueError, match="fraction: got"):
        metrics.min_k_plus_plus(apply, fraction=fraction)


@pytest.mark.parametrize(
    ("metric", "logits", "message"),
    [
        (
            metrics.accuracy(apply),
            (6, 8, 5),
            "apply: got logits of shape (6, 8, 5), expected (6, 7) as the labels, and classes",
        ),
        (metrics.accuracy(apply), (6, 7), "apply: got logits of shape (6, 7), expected (6, 7) as the labels, and classes"),
        (metrics.agreement(lambda _, batch: batch["retrained"], lambda batch: batch["label"]), (), "reference: got logits of"),
    ],
)
def test_shapes_that_do_not_fit(metric: Any, logits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        metric(np.zeros(logits, np.float32), sequences(0)[1])


BEYOND = {"label": np.array([0, 1, 2, -1])}  # of three examples with two classes, and padding
READING = {"accuracy": metrics.accuracy(apply), "probability": metrics.probability(apply)}


@pytest.mark.parametrize("metric", READING.values(), ids=READING)
def test_a_label_beyond_the_classes_is_not_a_wrong_answer(metric: Any) -> None:
    """Inside jit nothing raises: its number is NaN. Concrete data are checked."""
    logits = np.array([[2.0, 0.0]] * 4, np.float32)
    np.testing.assert_array_equal(np.isnan(jax.jit(metric)(logits, BEYOND)), [False, False, True, False])
    with pytest.raises(ValueError, match=re.escape("test['label']: got label 2 at example 2, expected 0 to 1, or -1")):
        metric.check(logits, BEYOND, "test")
    metrics.entropy(apply).check(logits, BEYOND, "test")


def test_sequences_with_a_label_beyond_the_classes() -> None:
    logits, labels = np.zeros((1, 3, 2), np.float32), {"label": np.array([[0, 2, 1]])}
    for make in (metrics.min_k, metrics.min_k_plus_plus, metrics.extraction_strength, metrics.accuracy, metrics.probability):
        assert np.isnan(make(apply)(logits, labels)[0])


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_labels_are_integers(dtype: str) -> None:
    labels = {"label": np.array([0.0, 0.9], np.float32).astype(dtype)}
    message = re.escape(f"batch['label']: got dtype {dtype}, expected integer class labels")
    for metric in (*EXAMPLES.values(), metrics.accuracy(apply)):
        with pytest.raises(ValueError, match=message):
            metric(np.zeros((2, 2), np.float32), {**labels, "retrained": np.zeros((2, 2), np.float32)})
        with pytest.raises(ValueError, match=message):
            metric.weights(labels)
        with pytest.raises(ValueError, match=message):
            metric.check(np.zeros((2, 2), np.float32), labels)


def test_min_k_needs_sequences() -> None:
    with pytest.raises(ValueError, match=re.escape("labels: got shape (3,), expected [batch, time]")):
        metrics.min_k(apply)(np.zeros((3, 4), np.float32), {"label": np.zeros(3, int)})
