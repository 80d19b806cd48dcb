"""Paired losses and gradients, against `jax.value_and_grad` of the mean."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax import paired_value_and_grad

SIZE = 10


def loss(params: Any, batch: Any) -> jax.Array:
    """A regression with one hidden layer."""
    hidden = jnp.tanh(batch["x"] @ params["hidden"])
    return (hidden @ params["out"] - batch["y"]) ** 2


def other_loss(params: Any, batch: Any) -> jax.Array:
    return jnp.abs(batch["x"] @ params["hidden"][:, 0] - batch["y"])


def batch_of(seed: int, size: int = SIZE, dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {"x": jnp.asarray(rng.normal(size=(size, 3)), dtype), "y": jnp.asarray(rng.normal(size=size), dtype)}


def params_of(dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(9)
    return {"hidden": jnp.asarray(rng.normal(size=(3, 4)), dtype), "out": jnp.asarray(rng.normal(size=4), dtype)}


def mean_and_grad(loss: Any, params: Any, batch: Any, weights: Any = None) -> Any:
    """The weighted mean, by definition."""
    weights = jnp.ones(len(batch["y"])) if weights is None else weights
    return jax.value_and_grad(lambda p: jnp.sum(weights * loss(p, batch)) / jnp.sum(weights))(params)


PARAMS, RETAIN, FORGET = params_of(), batch_of(0), batch_of(1, 7)
WEIGHTS = jnp.asarray(np.random.default_rng(2).uniform(0, 3, SIZE), jnp.float32).at[3].set(0.0)


@pytest.mark.parametrize("microbatch_size", [None, 1, 5, 4, 7, 100])
def test_mean_losses_and_gradients(microbatch_size: int | None) -> None:
    """Microbatches that fit, that leave a remainder in one batch or both, and that are larger than the batch."""
    losses, grads = jax.jit(paired_value_and_grad(loss, microbatch_size=microbatch_size))(PARAMS, RETAIN, FORGET)
    for value, grad, batch in ((losses.retain, grads.retain, RETAIN), (losses.forget, grads.forget, FORGET)):
        expected, gradient = mean_and_grad(loss, PARAMS, batch)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        chex.assert_trees_all_close(grad, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_weights_and_a_loss_of_its_own_for_forget(microbatch_size: int | None) -> None:
    paired = paired_value_and_grad(loss, forget_loss=other_loss, microbatch_size=microbatch_size)
    losses, grads = paired(PARAMS, RETAIN, FORGET, retain_weights=WEIGHTS)
    expected, gradient = mean_and_grad(loss, PARAMS, RETAIN, WEIGHTS)
    np.testing.assert_allclose(losses.retain, expected, rtol=1e-6)
    chex.assert_trees_all_close(grads.retain, gradient, rtol=1e-5, atol=1e-6)
    expected, gradient = mean_and_grad(other_loss, PARAMS, FORGET)
    np.testing.assert_allclose(losses.forget, expected, rtol=1e-6)
    chex.assert_trees_all_close(grads.forget, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_padding_of_the_loss_and_weights_of_the_caller(microbatch_size: int | None) -> None:
    """Examples with label -1 are as if they were not there, and the caller's weights multiply."""
    entropy = hamu_jax.objectives.cross_entropy(lambda params, batch: batch["x"] @ params)
    kernel = jnp.asarray(np.random.default_rng(3).normal(size=(3, 5)), jnp.float32)
    label = jnp.asarray([0, 4, -1, 2, 1, -1, 3, 0, 0, -1])
    batch, kept = {"x": RETAIN["x"], "label": label}, np.flatnonzero(label >= 0)
    short = jax.tree.map(lambda x: x[kept], batch)
    paired = paired_value_and_grad(entropy, microbatch_size=microbatch_size)
    losses, grads = paired(kernel, batch, batch, forget_weights=WEIGHTS)
    for value, grad, weights in ((losses.retain, grads.retain, jnp.ones(7)), (losses.forget, grads.forget, WEIGHTS[kept])):
        expected, gradient = jax.value_and_grad(lambda p, w=weights: jnp.sum(w * entropy(p, short)) / jnp.sum(w))(kernel)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_a_batch_of_nothing_but_padding(microbatch_size: int | None) -> None:
    paired = paired_value_and_grad(loss, microbatch_size=microbatch_size)
    losses, grads = paired(PARAMS, RETAIN, FORGET, retain_weights=jnp.zeros(SIZE))
    assert losses.retain == 0
    chex.assert_trees_all_equal(grads.retain, jax.tree.map(jnp.zeros_like, PARAMS))
    assert losses.forget > 0


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_an_example_of_weight_zero_may_have_a_loss_that_is_not_a_number(microbatch_size: int | None) -> None:
    def broken(params: Any, batch: Any) -> jax.Array:
        return jnp.where(batch["y"] == 99.0, jnp.nan, loss(params, batch))

    batch = {**RETAIN, "y": RETAIN["y"].at[3].set(99.0)}
    losses, grads = paired_value_and_grad(broken, microbatch_size=microbatch_size)(
        PARAMS, batch, FORGET, retain_weights=WEIGHTS
    )
    expected, gradient = mean_and_grad(loss, PARAMS, RETAIN, WEIGHTS)
    np.testing.assert_allclose(losses.retain, expected, rtol=1e-6)
    chex.assert_trees_all_close(grads.retain, gradient, rtol=1e-5, atol=1e-6)


def test_microbatches_of_bfloat16_add_up_in_float32() -> None:
    """512 gradients of 1/512 and one large first: in bfloat16 the small ones would be lost."""

    def linear(params: jax.Array, batch: jax.Array) -> jax.Array:
        return batch * params

    params = jnp.ones((), jnp.bfloat16)
    batch = jnp.ones(513, jnp.bfloat16).at[0].set(512.0)
    (value, _), (grad, _) = paired_value_and_grad(linear, microbatch_size=1)(params, batch, batch)
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(value, 1024 / 513, rtol=1e-5)
    np.testing.assert_allclose(float(grad), 1024 / 513, rtol=2.0**-8)  # rounded once, to bfloat16


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_double_precision_is_kept(microbatch_size: int | None) -> None:
    with jax.enable_x64(True):
        params, batch = params_of(np.float64), batch_of(0, dtype=np.float64)
        losses, grads = paired_value_and_grad(loss, microbatch_size=microbatch_size)(params, batch, batch)
        expected, gradient = mean_and_grad(loss, params, batch)
    np.testing.assert_allclose(losses.retain, expected, rtol=1e-14)
    chex.assert_trees_all_close(grads.forget, gradient, rtol=1e-12)


def test_single_precision_params_under_x64() -> None:
    with jax.enable_x64(True):
        losses, grads = paired_value_and_grad(loss, microbatch_size=4)(PARAMS, RETAIN, FORGET)
    assert {x.dtype for x in jax.tree.leaves((losses, grads))} == {jnp.dtype(jnp.float32)}


def test_the_whole_goes_into_the_transform() -> None:
    """The three lines of the design's section 3: the forget loss rises as promised, to first order."""
    tx = hamu_jax.hamu(1e-3, 0.5, blocks="global")
    paired = paired_value_and_grad(loss)
    losses, grads = paired(PARAMS, RETAIN, FORGET)
    updates, state = tx.update(grads.retain, tx.init(PARAMS), PARAMS, forget_grads=grads.forget)
    after, _ = paired(jax.tree.map(jnp.add, PARAMS, updates), RETAIN, FORGET)
    promised = 1e-3 * hamu_jax.get_hardness(state).total_forget_change
    assert promised >= 0.5e-3 * (1 - 1e-6)
    # Second order: the step's length is 1e-3 of the gradient's.
    np.testing.assert_allclose(after.forget - losses.forget, promised, rtol=2e-2)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_a_bad_microbatch_size(size: Any) -> None:
    with pytest.raises(ValueError, match=rf"microbatch_size: got {size!r}, expected a whole number of at least 1"):
        paired_value_and_grad(loss, microbatch_size=size)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": jnp.ones((0, 3)), "y": jnp.ones(0)}, r"forget_batch: got 0 examples, expected at least 1"),
        ({}, r"forget_batch: got a pytree without arrays, expected at least one with a leading example axis"),
        ({"x": jnp.ones((4, 3)), "y": jnp.ones(5)}, r"forget_batch: got 5 examples at 'y', expected 4 as at 'x'"),
        ({"x": jnp.ones((4, 3)), "y": jnp.ones(())}, r"forget_batch: got a 0-d leaf at 'y', expected a leading example axis"),
    ],
    ids=["empty", "no arrays", "lengths", "0-d"],
)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_bad_batches(batch: Any, message: str, jit: bool) -> None:
    paired = paired_value_and_grad(loss)
    with pytest.raises(ValueError, match=message):
        (jax.jit(paired) if jit else paired)(PARAMS, RETAIN, batch)


@pytest.mark.parametrize("microbatch_size", [None, 5])
@pytest.mark.parametrize(
    "wrong", [lambda p, b: jnp.mean(loss(p, b)), lambda p, b: loss(p, b)[:, None]], ids=["mean", "extra axis"]
)
def test_a_loss_of_the_wrong_shape(wrong: Any, microbatch_size: int | None) -> None:
    with pytest.raises(ValueError, match=r"loss: got a result of shape .* for retain_batch of .* one loss per example"):
        paired_value_and_grad(wrong, microbatch_size=microbatch_size)(PARAMS, RETAIN, FORGET)
