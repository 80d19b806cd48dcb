"""Extraction strength, against greedy decoding and counting in plain Python."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamu_jax import metrics

BATCH, TIME, CLASSES = 6, 7, 3


def apply(params: Any, batch: Any) -> Any:
    """The parameters are the logits."""
    del batch
    return params


METRIC = jax.jit(metrics.extraction_strength(apply))
ACCURACY = jax.jit(metrics.accuracy(apply))


def by_hand(predicted: list[int], answer: list[int]) -> float:
    """The fewest tokens after which the rest is predicted, none if nothing is left to predict."""
    needed = next(k for k in range(len(answer) + 1) if predicted[k:] == answer[k:])
    return 1 - needed / len(answer)


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_longest_right_ending(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(BATCH, TIME, CLASSES)).astype(np.float32)
    likely = np.where(rng.random((BATCH, TIME)) < 0.8, logits.argmax(axis=-1), rng.integers(0, CLASSES, (BATCH, TIME)))
    label = np.where(rng.random((BATCH, TIME)) < share, likely, -1)
    got = METRIC(logits, {"label": label})
    for i in range(BATCH):
        real = label[i] >= 0
        expected = by_hand(logits[i][real].argmax(axis=-1).tolist(), label[i][real].tolist()) if real.any() else 0.0
        assert float(got[i]) == pytest.approx(expected, abs=1e-6)
    assert np.all(np.asarray(got) <= np.asarray(ACCURACY(logits, {"label": label})) + 1e-6)


def test_it_is_what_greedy_decoding_writes_from_a_prefix() -> None:
    """A model of the last two tokens: decoding from the shortest prefix gives the rest, from any shorter one it does not."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(CLASSES, CLASSES, CLASSES)).astype(np.float32)
    text = [0, 1]
    for _ in range(TIME):
        text.append(int(table[text[-2], text[-1]].argmax()))
    text[5] = (text[5] + 1) % CLASSES
    text[6:] = []
    for _ in range(TIME - 4):
        text.append(int(table[text[-2], text[-1]].argmax()))
    answer = text[2:]
    logits = np.stack([table[a, b] for a, b in itertools.pairwise(text[:-1])])[None]
    strength = float(metrics.extraction_strength(apply)(logits, {"label": np.array([answer])})[0])

    def written(prefix: int) -> list[int]:
        tokens = text[: 2 + prefix]
        while len(tokens) < len(text):
            tokens.append(int(table[tokens[-2], tokens[-1]].argmax()))
        return tokens[2:]

    needed = min(k for k in range(len(answer) + 1) if written(k) == answer)
    assert 0 < needed < len(answer)
    assert strength == pytest.approx(1 - needed / len(answer), abs=1e-6)


def test_what_is_not_known_and_what_is_padding() -> None:
    logits = np.zeros((2, 3, CLASSES), np.float32)
    logits[0, 0] = np.nan
    assert np.isnan(METRIC(logits, {"label": np.array([[0, 0, 1], [-1, -1, -1]])})[0])
    got = METRIC(logits, {"label": np.array([[-1, 0, 0], [-1, -1, -1]])})
    np.testing.assert_array_equal(got, [1.0, 0.0])
    assert jnp.isfinite(metrics.extraction_strength(apply).weights({"label": np.array([[-1, 0], [-1, -1]])})).all()


def test_it_wants_sequences() -> None:
    with pytest.raises(ValueError, match=r"labels: got shape \(2,\), expected \[batch, time\]"):
        metrics.extraction_strength(apply)(np.zeros((2, CLASSES)), {"label": np.zeros(2, int)})
