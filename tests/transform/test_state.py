"""Reading the state of any chain that holds a transform of ours."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hamu_jax
from hamu_jax._transform.state import at_step

PARAMS = {"b": jnp.zeros(2), "w": jnp.zeros((3, 2))}
MANY = hamu_jax.transform(0.1, forget_axis=0, num_requests=4)
ONE = hamu_jax.transform(0.1)


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.chain(optax.identity(), optax.chain(tx, optax.sgd(0.1)))])
def test_requests_in_any_chain(wrap: Any) -> None:
    state = wrap(MANY).init(PARAMS)
    requests = hamu_jax.get_requests(state)
    assert isinstance(requests, hamu_jax.Requests)
    assert [x.shape for x in requests] == [(2,), (2, 4), (2,), (4,), (4,)]
    assert not any(np.any(x) for x in requests)
    assert [x.dtype for x in requests] == [jnp.float32] * 4 + [jnp.bool_]
    assert hamu_jax.get_hardness(state).kappa.shape == (2,)


def test_shapes_follow_the_blocks_and_the_parameters_dtype() -> None:
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), PARAMS)
        tx = hamu_jax.transform(jnp.ones(3), blocks="global", forget_axis=0)
        requests = hamu_jax.get_requests(tx.init(params))
    assert [x.shape for x in requests] == [(1,), (1, 3), (1,), (3,), (3,)]
    assert {x.dtype for x in requests} == {jnp.dtype(jnp.float64), jnp.dtype(bool)}
    assert hamu_jax.get_requests(tx.init(jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS))).kkt.dtype == jnp.float32


@pytest.mark.parametrize(
    ("tx", "found"), [(optax.sgd(0.1), 0), (ONE, 0), (optax.chain(MANY, MANY), 2)], ids=["none", "one objective", "two"]
)
def test_not_just_one_to_read(tx: Any, found: int) -> None:
    message = f"state: got {found} hamu_jax transforms with forget_axis in it, expected 1"
    with pytest.raises(ValueError, match=re.escape(message)):
        hamu_jax.get_requests(tx.init(PARAMS))


def test_only_one_of_two_transforms_has_requests() -> None:
    state = optax.chain(ONE, MANY).init(PARAMS)
    assert hamu_jax.get_requests(state).change.shape == (4,)
    with pytest.raises(ValueError, match=re.escape("state: got 2 hamu_jax transforms in it, expected 1")):
        hamu_jax.get_hardness(state)


def test_a_number_or_a_schedule() -> None:
    step = jnp.int32(3)
    assert at_step("radius", 0.5, step, jnp.float32) == 0.5
    assert at_step("radius", lambda t: 2 * t, step, jnp.float32) == 6.0
    np.testing.assert_array_equal(at_step("improvement", np.ones(2), step, jnp.float32), np.ones(2))
