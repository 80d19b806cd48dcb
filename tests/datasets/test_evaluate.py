"""Means over whole data sets, against numpy in float64."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import examples, loss, start

import hamu_jax
from hamu_jax import objectives

DATA = examples(5, 10)


def logits(params: Any, batch: Any) -> Any:
    return batch["x"] @ params


def wrong(params: Any, batch: Any) -> Any:
    return jnp.argmax(logits(params, batch), axis=-1) != batch["label"]  # booleans are averaged as numbers


def expected_loss(data: Any) -> float:
    params = {k: np.asarray(v, np.float64) for k, v in start().items()}
    return float(np.mean((data["x"].astype(np.float64) @ params["w"] + params["b"] - data["y"]) ** 2))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 1024])  # 4: a last batch of 2
def test_every_example_counts_alike(batch_size: int) -> None:
    metrics = {"target": lambda _, batch: batch["y"]}
    got = hamu_jax.evaluate(
        loss, start(), {"all": DATA, "one": {k: v[:1] for k, v in DATA.items()}}, metrics, batch_size=batch_size
    )
    assert list(got) == ["all/loss", "all/target", "one/loss", "one/target"]
    assert all(type(value) is float for value in got.values())
    np.testing.assert_allclose(got["all/loss"], expected_loss(DATA), rtol=1e-6)
    np.testing.assert_allclose(got["one/loss"], expected_loss({k: v[:1] for k, v in DATA.items()}), rtol=2e-6)
    np.testing.assert_allclose(got["all/target"], DATA["y"].astype(np.float64).mean(), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_padding_is_left_out_of_every_mean(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    label = np.array([0, 1, 2, -1, 1, -1, 0])
    batch = {"x": rng.normal(size=(7, 4)).astype(np.float32), "label": label}
    batch["x"][label < 0] = np.nan  # whatever stands there
    params = rng.normal(size=(4, 3)).astype(np.float32)
    cross_entropy = objectives.cross_entropy(logits)
    got = hamu_jax.evaluate(cross_entropy, params, {"test": batch}, {"wrong": wrong}, batch_size=batch_size)
    real = label >= 0
    scores = batch["x"][real].astype(np.float64) @ params
    by_hand = np.log(np.exp(scores).sum(axis=-1)) - scores[np.arange(real.sum()), label[real]]
    np.testing.assert_allclose(got["test/loss"], by_hand.mean(), rtol=1e-6)
    np.testing.assert_allclose(got["test/wrong"], np.mean(scores.argmax(axis=-1) != label[real]), rtol=1e-6)


def test_a_split_of_padding_has_no_mean() -> None:
    batch = {"x": np.ones((3, 4), np.float32), "label": np.full(3, -1)}
    assert np.isnan(
        hamu_jax.evaluate(objectives.cross_entropy(logits), np.ones((4, 3), np.float32), {"test": batch})["test/loss"]
    )


def test_names_are_known_beforehand() -> None:
    metrics = {"target": lambda _, batch: batch["y"]}
    splits = {"a": DATA, "b": DATA}
    assert hamu_jax.Evaluation(splits, metrics).columns() == tuple(hamu_jax.evaluate(loss, start(), splits, metrics))


@pytest.mark.parametrize(
    ("splits", "metrics", "message"),
    [
        ({"test": {k: v[:0] for k, v in DATA.items()}}, {}, "splits['test']: got 0 examples, expected at least 1"),
        ({"test": {**DATA, "y": DATA["y"][:4]}}, {}, "splits['test']: got 4 examples at 'y', expected 10 as at 'x'"),
        (
            {"test": DATA},
            {"mean": lambda _, batch: jnp.mean(batch["y"])},
            "splits['test']: metrics['mean']: got a result of shape () for a batch of 10 examples, expected (10,): one number",
        ),
        (
            {"test": DATA},
            {"x": lambda _, batch: batch["x"]},
            "splits['test']: metrics['x']: got a result of shape (10, 3) for a batch of 10 examples",
        ),
    ],
)
def test_errors_name_the_split(splits: Any, metrics: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        hamu_jax.evaluate(loss, start(), splits, metrics)


def test_errors_name_the_loss() -> None:
    with pytest.raises(
        ValueError, match=re.escape("splits['test']: loss: got a result of shape () for a batch of 10 examples")
    ):
        hamu_jax.evaluate(lambda _, batch: jnp.mean(batch["y"]), start(), {"test": DATA})


def test_batch_size_is_a_count() -> None:
    with pytest.raises(ValueError, match="batch_size: got 0, expected a whole number of at least 1"):
        hamu_jax.evaluate(loss, start(), {"test": DATA}, batch_size=0)


def test_the_name_of_the_loss_is_taken() -> None:
    with pytest.raises(ValueError, match="metrics: got the name 'loss', expected another"):
        hamu_jax.evaluate(loss, start(), {"test": examples(3, 2)}, {"loss": loss})
