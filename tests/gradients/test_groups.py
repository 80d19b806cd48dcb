"""Groups of forget examples: every group's mean loss and gradient, against a mean over its examples alone."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import numbers_of
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import Groups, objectives
from hamu_jax._gradients.groups import group_means, group_means_and_grads

NUMBERS = np.array([2, 0, 0, -1, 2, 3, 0, 7, 2, 4])  # group 1 is empty, and -1 and 7 are no groups
COUNT = 5


def loss(params: Any, batch: Any) -> jax.Array:
    """A regression with one hidden layer."""
    return (jnp.tanh(batch["x"] @ params["hidden"]) @ params["out"] - batch["y"]) ** 2


GROUPS = Groups(numbers_of, COUNT)


def batch_of(seed: int, numbers: Any = NUMBERS, dtype: Any = np.float64) -> dict[str, Any]:
    rng, size = np.random.default_rng(seed), len(numbers)
    x, y = rng.normal(size=(size, 3)).astype(dtype), rng.normal(size=size).astype(dtype)
    return {"x": x, "y": y, "group": np.asarray(numbers), "label": rng.integers(0, 2, size)}


def params_of(dtype: Any = np.float64) -> dict[str, jax.Array]:
    rng = np.random.default_rng(9)
    return {"hidden": jnp.asarray(rng.normal(size=(3, 2)), dtype), "out": jnp.asarray(rng.normal(size=2), dtype)}


@functools.cache
def compiled(function: Any) -> Any:
    return jax.jit(function, compiler_options=PLAIN_COMPILE)


def naive(loss: Any, params: Any, batch: Any, weights: Any = None, count: int = COUNT) -> tuple[np.ndarray, Any]:
    """One group after the other: the mean over the batch with the weights of the others at 0."""
    weights = np.ones(len(batch["y"])) if weights is None else np.asarray(weights)
    own = getattr(loss, "weights", None)
    weights = weights if own is None else weights * np.asarray(own(batch))

    def mean(params: Any, weights: Any) -> Any:
        total = jnp.sum(weights)
        return jnp.sum(weights * loss(params, batch)) / jnp.where(total > 0, total, 1.0)

    masks = jnp.asarray(np.stack([weights * (np.asarray(batch["group"]) == i) for i in range(count)]))
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(mean), in_axes=(None, 0)), compiler_options=PLAIN_COMPILE)(
        params, masks
    )
    return np.asarray(values), grads


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("microbatch_size", [None, 4, 5, 1, 100])
def test_means_and_gradients_of_every_group(microbatch_size: int | None) -> None:
    """Microbatches that leave a remainder, that fit, and that are larger than the batch."""
    params, retain, forget = params_of(), batch_of(0), batch_of(1)
    paired = hamu_jax.paired_value_and_grad(loss, microbatch_size=microbatch_size, forget_groups=GROUPS)
    losses, grads = compiled(paired)(params, retain, forget)
    expected, gradients = naive(loss, params, forget)
    np.testing.assert_allclose(losses.forget, expected, rtol=1e-12)
    chex.assert_trees_all_close(grads.forget, gradients, rtol=1e-11, atol=1e-12)
    assert losses.forget[1] == 0.0, "an empty group"
    assert all(not np.any(x[1]) for x in jax.tree.leaves(grads.forget))
    for i in (0, 2):  # once more without any weights
        members = jax.tree.map(lambda x, i=i: x[i == NUMBERS], forget)
        np.testing.assert_allclose(losses.forget[i], np.mean(loss(params, members)), rtol=1e-12)
    # The retain side is as it is without groups.
    plain, plain_grads = jax.value_and_grad(lambda p: jnp.mean(loss(p, retain)))(params)
    np.testing.assert_allclose(losses.retain, plain, rtol=1e-12)
    chex.assert_trees_all_close(grads.retain, plain_grads, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(group_means(loss, params, forget, GROUPS), expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_weights_and_padding(microbatch_size: int | None) -> None:
    """Labels of -1 and weights of 0 leave examples out; a group of those alone is as if it were empty."""
    entropy = objectives.cross_entropy(lambda params, batch: batch["x"] @ params["hidden"])
    params, forget = params_of(), batch_of(1)
    forget["label"][[0, 5]] = -1  # 5 is alone in group 3
    weights = jnp.asarray(np.random.default_rng(2).uniform(0.5, 3, 10)).at[jnp.array([1, 9])].set(0.0)  # 9: alone in 4
    paired = hamu_jax.paired_value_and_grad(loss, forget_loss=entropy, microbatch_size=microbatch_size, forget_groups=GROUPS)
    losses, grads = compiled(paired)(params, batch_of(0), forget, forget_weights=weights)
    expected, gradients = naive(entropy, params, forget, weights)
    np.testing.assert_allclose(losses.forget, expected, rtol=1e-12)
    chex.assert_trees_all_close(grads.forget, gradients, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(losses.forget) > 0, [True, False, True, False, False])
    padded, _ = naive(entropy, params, forget)
    np.testing.assert_allclose(group_means(entropy, params, forget, GROUPS), padded, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_an_example_that_is_left_out_may_be_nan(microbatch_size: int | None) -> None:
    params, forget = params_of(), batch_of(1)
    expected, gradients = naive(loss, params, {**forget, "group": np.where(np.arange(10) == 4, -1, NUMBERS)})
    forget["x"][[3, 4, 7]] = np.nan  # 3 and 7 are in no group
    weights = jnp.ones(10).at[4].set(0.0)
    values, grads = group_means_and_grads(loss, params, forget, GROUPS, weights, microbatch_size=microbatch_size)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    chex.assert_trees_all_close(grads, gradients, rtol=1e-11, atol=1e-12)
    forget["x"][0] = np.nan
    values, grads = group_means_and_grads(loss, params, forget, GROUPS, weights, microbatch_size=microbatch_size)
    np.testing.assert_array_equal(np.isnan(values), [False, False, True, False, False])
    np.testing.assert_array_equal(np.isnan(grads["out"]).all(axis=1), [False, False, True, False, False])


def test_half_precision_is_summed_in_float32() -> None:
    """A hundred bfloat16 losses per group: their sum in bfloat16 would be off by percents."""
    numbers = np.arange(300) % 3
    batch = {"x": np.random.default_rng(3).normal(1, 0.1, (300, 2)).astype(jnp.bfloat16), "group": numbers}
    params = jnp.ones(2, jnp.bfloat16)
    values, grads = group_means_and_grads(
        lambda w, b: jnp.asarray(b["x"]) @ w, params, batch, Groups(numbers_of, 3), None, microbatch_size=70
    )
    assert (values.dtype, grads.dtype) == (jnp.float32, jnp.bfloat16)
    expected = np.stack([batch["x"][numbers == i].astype(np.float64).mean(axis=0) for i in range(3)])
    np.testing.assert_allclose(grads.astype(jnp.float32), expected, rtol=2**-8)  # one rounding to bfloat16
    np.testing.assert_allclose(values, expected.sum(axis=1), rtol=1e-3)  # each loss is rounded to bfloat16


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool])
def test_any_integers_number_groups(dtype: Any) -> None:
    """More groups than an 8-bit number can count too."""
    numbers = np.array([0, 1, 1, 0, 100]).astype(dtype)
    batch, params = batch_of(4, numbers, np.float32), params_of(np.float32)
    values = group_means(loss, params, batch, Groups(numbers_of, 300))
    losses = np.asarray(loss(params, batch))
    expected = np.zeros(300)
    for i in np.unique(numbers.astype(int)):
        expected[i] = losses[numbers == i].mean()
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_a_count_that_cannot_be(count: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"count: got {count!r}, expected a whole number of at least 1")):
        Groups(numbers_of, count)


@pytest.mark.parametrize(
    ("of", "error", "message"),
    [
        (lambda batch: batch["group"][:3], ValueError, "groups: got shape (3,), expected (10,)"),
        (lambda batch: batch["x"], ValueError, "groups: got shape (10, 3), expected (10,)"),
        (lambda _: 0, ValueError, "groups: got shape (), expected (10,)"),
        (lambda batch: batch["y"], TypeError, "groups: got float32, expected whole numbers"),
    ],
)
def test_numbers_that_cannot_be(of: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        group_means(loss, params_of(np.float32), batch_of(1, dtype=np.float32), Groups(of, COUNT))


def test_a_loss_that_is_not_one_number_an_example() -> None:
    paired = hamu_jax.paired_value_and_grad(loss, forget_loss=lambda p, b: jnp.mean(loss(p, b)), forget_groups=GROUPS)
    batch = batch_of(1, dtype=np.float32)
    with pytest.raises(ValueError, match=re.escape("loss: got a result of shape () for one example of the batch")):
        paired(params_of(np.float32), batch, batch)


def test_leaves_of_unlike_lengths() -> None:
    batch = {**batch_of(1, dtype=np.float32), "y": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=re.escape("got 3 examples at 'y', expected 10")):
        group_means(loss, params_of(np.float32), batch, GROUPS)
