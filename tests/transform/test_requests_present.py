"""Requests that a minibatch has no example of, and what is told of a stack that cannot be."""

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import numbers_of

import hamu_jax
from hamu_jax import Groups


def update(forget: Any, improvement: Any = 0.1, retain: Any = None, **extra: Any) -> Any:
    """An update outside jit, from float32 gradients: only the transform compiles."""
    tx = hamu_jax.transform(improvement, blocks="global", forget_axis=0, num_requests=3)
    params = {"w": jnp.ones(4)}
    retain = {"w": jnp.array([1.0, 0.0, 0.0, 1.0])} if retain is None else retain
    updates, state = tx.update(retain, tx.init(params), forget_grads=forget, **extra)
    return updates, hamu_jax.get_requests(state), hamu_jax.get_hardness(state)


ROWS = {"w": jnp.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])}


def test_a_request_that_is_not_there_asks_nothing() -> None:
    """Said of a plain stack; the means of the hardness are over the others."""
    absent = jnp.array([True, False, True])
    updates, requests, hardness = update(ROWS, forget_present=absent)
    assert requests.fraction[0] == 1
    assert np.all(requests.change[absent] >= 0.1 - 1e-5)
    np.testing.assert_array_equal(requests.present, absent)
    expected, _, of_three = update(ROWS, jnp.array([0.1, 0.0, 0.1]))
    chex.assert_trees_all_close(updates, expected, atol=1e-6)
    for name in ("kappa", "forget_norm", "improvement", "forget_change"):
        np.testing.assert_allclose(getattr(hardness, name), 1.5 * getattr(of_three, name), rtol=1e-5, err_msg=name)
    _, requests, _ = update(jax.tree.map(lambda x: x.at[1].set(-x[0]), ROWS), forget_present=absent)
    assert requests.fraction[0] == 1, "whatever its gradient"


def test_nobody_is_there() -> None:
    """Plain descent on the retain loss."""
    updates, requests, hardness = update(ROWS, forget_present=jnp.zeros(3, bool))
    chex.assert_trees_all_close(updates, {"w": jnp.array([1.0, 0.0, 0.0, 1.0])}, rtol=1e-6)
    assert np.all(np.isfinite(hardness.angle))
    np.testing.assert_array_equal(requests.change, 0.0)


def linear(params: Any, batch: Any) -> Any:
    return batch["x"] @ params["w"]


def test_a_request_whose_gradient_is_zero_is_there_and_gets_nothing() -> None:
    """Unlike one without examples: nothing can be promised to it, and so to none."""
    groups = Groups(numbers_of, 3, implicit=True)
    batch = {"x": ROWS["w"], "group": jnp.array([0, 1, 2])}
    paired = hamu_jax.paired_value_and_grad(linear, forget_groups=groups)
    for number, fraction in ((1, 0.0), (-1, 1.0)):
        batch["group"] = batch["group"].at[1].set(number)
        _, grads = paired({"w": jnp.ones(4)}, batch, batch)
        _, requests, _ = update(grads.forget)
        assert requests.fraction[0] == fraction
        np.testing.assert_array_equal(requests.present, [True, number == 1, True])


def test_errors() -> None:
    batch = {"x": ROWS["w"], "group": jnp.array([0, 1, 2])}
    params = {"w": jnp.ones(4)}

    def stack(count: int = 3, of: Any = linear, at: Any = params) -> Any:
        paired = hamu_jax.paired_value_and_grad(of, forget_groups=Groups(numbers_of, count, implicit=True))
        return paired(at, batch, batch)[1].forget

    with pytest.raises(ValueError, match=re.escape("forget_grads: got 4 requests on axis 0, expected 3")):
        update(stack(4))
    with pytest.raises(ValueError, match=re.escape("forget_grads (one request): got 2 leaves, expected 1 as in updates")):
        update(stack(at={**params, "z": jnp.ones(1)}))
    with pytest.raises(ValueError, match=re.escape("forget_present: got bool of shape (2,), expected booleans of shape (3,)")):
        update(ROWS, forget_present=jnp.ones(2, bool))
    with pytest.raises(ValueError, match=re.escape("forget_present: got int32 of shape (3,), expected booleans of shape")):
        update(ROWS, forget_present=jnp.ones(3, jnp.int32))
    groups = Groups(numbers_of, 3, implicit=True)
    with pytest.raises(ValueError, match=re.escape("forget_groups: got implicit=True with axis_name='devices'")):
        hamu_jax.paired_value_and_grad(linear, forget_groups=groups, axis_name="devices")
    with pytest.raises(ValueError, match=re.escape("forget_groups: got implicit=True with a mesh, expected False")):
        hamu_jax.sharding.paired_value_and_grad(linear, hamu_jax.sharding.make_mesh(), None, forget_groups=groups)
    split = hamu_jax.transform(0.1, blocks="global", forget_axis=0, num_requests=3, axis_name="devices")
    with pytest.raises(ValueError, match=re.escape("forget_grads: got an ImplicitStack on many devices, expected the")):
        split.update(params, split.init(params), forget_grads=stack())
    with pytest.raises(TypeError, match=re.escape("loss: got an object of type Unhashable that is not hashable, expected")):
        stack(of=Unhashable())
    tx = hamu_jax.transform(0.1)
    with pytest.raises(ValueError, match=re.escape("forget_grads: got an ImplicitStack, expected a gradient")):
        tx.update(params, tx.init(params), forget_grads=stack())


class Unhashable:
    """A loss that compares by value."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, params: Any, batch: Any) -> Any:
        return linear(params, batch)
