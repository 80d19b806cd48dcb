"""Weights of examples: one number of at least 0 per example, or an error; never a loss that is some times too large."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import examples, loss, start

import hamu_jax

BATCH = examples(1, 6)
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 1.0], np.float32)
GROUPS = hamu_jax.Groups(lambda batch: jnp.zeros(len(batch["y"]), jnp.int32), 1)


class OwnWeights:
    """A loss with weights of its own."""

    def __init__(self, of: Callable[[Any], Any]) -> None:
        self.weights = of

    def __call__(self, params: Any, batch: Any) -> Any:
        return loss(params, batch)


def paired(of_loss: Any = loss, *, grouped: bool = False, **weights: Any) -> Any:
    function = hamu_jax.paired_value_and_grad(of_loss, forget_groups=GROUPS if grouped else None)
    return function(start(), BATCH, BATCH, **weights)


@pytest.mark.parametrize("side", ["retain", "forget", "forget of groups"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[:, None], "got shape (6, 1), expected (6,): one weight per example"),
        (WEIGHTS[:1], "got shape (1,), expected (6,)"),
        (WEIGHTS[:3], "got shape (3,), expected (6,)"),
        (2.0, "got shape (), expected (6,)"),
        (-WEIGHTS, "got -1.0, expected a finite number of at least 0"),
        (np.where(WEIGHTS == 0.5, np.nan, WEIGHTS), "got nan, expected a finite number of at least 0"),
        (WEIGHTS + 1j, "got complex64, expected real numbers"),
    ],
    ids=["column", "one", "three", "scalar", "negative", "nan", "complex"],
)
def test_weights_that_cannot_be(side: str, weights: Any, message: str) -> None:
    name, grouped = f"{side.split(maxsplit=1)[0]}_weights", "groups" in side
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as error:
        paired(grouped=grouped, **{name: weights})
    assert str(error.value).startswith(name)
    if "shape" in message:
        with pytest.raises((ValueError, TypeError), match=re.escape(f"loss.weights: {message}")):
            paired(OwnWeights(lambda _: weights))
        with pytest.raises((ValueError, TypeError), match=re.escape(f"loss.weights: {message}")):
            hamu_jax.evaluate(OwnWeights(lambda _: weights), start(), {"all": BATCH})


@pytest.mark.parametrize("weights", [WEIGHTS, jnp.asarray(WEIGHTS), WEIGHTS.astype(np.float64), WEIGHTS.tolist()])
def test_the_weighted_mean(weights: Any) -> None:
    """Against numpy in float64; a loss's own weights multiply."""
    losses = np.asarray(loss(start(), BATCH), np.float64)
    expected = np.sum(WEIGHTS * losses) / np.sum(WEIGHTS)
    np.testing.assert_allclose(paired(retain_weights=weights)[0].retain, expected, rtol=1e-6)
    np.testing.assert_allclose(paired(OwnWeights(lambda _: jnp.asarray(weights)))[0].forget, expected, rtol=1e-6)
    mask = WEIGHTS > 0
    np.testing.assert_allclose(paired(retain_weights=mask)[0].retain, losses[mask].mean(), rtol=1e-6)


def test_traced_negative_weights_give_nan_and_no_step() -> None:
    """A mean with negative weights was a sum. Inside jit the numbers say it, and the transform takes no step."""
    tx = hamu_jax.transform(0.5)

    @jax.jit
    def step(weights: Any) -> Any:
        losses, grads = hamu_jax.paired_value_and_grad(loss)(start(), BATCH, BATCH, retain_weights=weights)
        updates, state = tx.update(grads.retain, tx.init(start()), forget_grads=grads.forget)
        return losses.retain, updates, hamu_jax.get_hardness(state).finite

    value, updates, finite = step(jnp.asarray(-WEIGHTS))
    assert jnp.isnan(value)
    assert not jnp.any(finite)
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(updates))
