"""Losses of one number per example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hamu_jax.objectives import CrossEntropy, cross_entropy


def apply(params: Any, batch: Any) -> jax.Array:
    return batch["x"] @ params


KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)


def batch_of(*labels: int) -> dict[str, jax.Array]:
    return {"x": X, "label": jnp.asarray(labels)}


def test_cross_entropy() -> None:
    labels = np.array([0, 3, 1, 2, 2])
    logits = np.asarray(X, np.float64) @ np.asarray(KERNEL, np.float64)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), labels]
    np.testing.assert_allclose(cross_entropy(apply)(KERNEL, batch_of(*labels)), expected, rtol=1e-5)


def test_padding_has_no_loss_no_weight_and_no_gradient() -> None:
    loss, batch = cross_entropy(apply), batch_of(0, -1, 1, -1, 2)
    np.testing.assert_array_equal(loss(KERNEL, batch)[jnp.array([1, 3])], 0)
    np.testing.assert_array_equal(loss.weights(batch), [1, 0, 1, 0, 1])
    gradients = jax.jacobian(loss)(KERNEL, batch)
    np.testing.assert_array_equal(np.any(gradients != 0, axis=(1, 2)), [True, False, True, False, True])


def test_labels_elsewhere() -> None:
    loss = cross_entropy(lambda params, batch: batch[0] @ params, label=1)
    batch = batch_of(0, 1, 2, 3, -1)
    expected = cross_entropy(apply)(KERNEL, batch)
    np.testing.assert_array_equal(loss(KERNEL, (batch["x"], batch["label"])), expected)
    np.testing.assert_array_equal(loss.weights((batch["x"], batch["label"])), [1, 1, 1, 1, 0])


def test_equal_losses_are_equal() -> None:
    """So that jit does not compile again for a loss that is made anew."""
    assert cross_entropy(apply) == CrossEntropy(apply)
    assert hash(cross_entropy(apply)) == hash(cross_entropy(apply))


def test_good_labels_pass() -> None:
    cross_entropy(apply).check(KERNEL, batch_of(0, 3, -1, 2, 1))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 4, 9, 1], r"forget\['label'\]: got label 4 at example 2, expected 0 to 3, or -1 for padding"),
        ([0, 1, 2, -2, 1], r"forget\['label'\]: got label -2 at example 3, expected 0 to 3, or -1 for padding"),
        ([0.0, 1.0, 2.0, 3.0, 1.0], r"forget\['label'\]: got dtype float32, expected integer class labels"),
    ],
    ids=["large", "negative", "float"],
)
def test_bad_labels(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropy(apply).check(KERNEL, batch_of(*labels), "forget")


def test_the_name_of_the_batch_is_said() -> None:
    with pytest.raises(ValueError, match=r"^batch\['label'\]: got label 7 at example 0"):
        cross_entropy(apply).check(KERNEL, batch_of(7, 0, 0, 0, 0))
