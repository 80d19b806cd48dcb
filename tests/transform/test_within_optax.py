"""Our transforms within optax: injected hyperparameters, maps over states, wrappers; and settings of a wrong kind."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hamu_jax
from hamu_jax import rules

RETAIN = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
FORGET = {"a": jnp.array([0.3, 1.0]), "b": jnp.array([-1.0])}


def step(tx: Any) -> Any:
    return tx.update(RETAIN, tx.init(RETAIN), RETAIN, forget_grads=FORGET)


@pytest.fixture(scope="module", autouse=True)
def _promote(as_users_promote: None) -> None:
    """optax's own code mixes dtypes."""


@pytest.mark.parametrize("options", [{}, {"variant": "u", "blocks": "global", "radius": 0.5}])
def test_inject_hyperparams(options: dict[str, Any]) -> None:
    injected = optax.inject_hyperparams(hamu_jax.hamu)(learning_rate=0.1, improvement=0.3, **options)
    updates, state = step(injected)
    for got, expected in zip(
        jax.tree.leaves(updates), jax.tree.leaves(step(hamu_jax.hamu(0.1, 0.3, **options))[0]), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    state.hyperparams["learning_rate"] = jnp.asarray(0.2)
    twice, _ = injected.update(RETAIN, state, RETAIN, forget_grads=FORGET)
    np.testing.assert_allclose(twice["a"], 2 * updates["a"], rtol=1e-6)


def test_inject_hyperparams_with_numbers_that_are_compiled_in() -> None:
    with pytest.raises(TypeError, match=re.escape("static_args=('clip_norm',)")):
        jax.jit(lambda: step(optax.inject_hyperparams(hamu_jax.transform)(improvement=0.3, clip_norm=1.0)))()
    injected = optax.inject_hyperparams(hamu_jax.transform, static_args=("clip_norm",))(improvement=0.3, clip_norm=1.0)
    np.testing.assert_allclose(
        jax.jit(lambda: step(injected))()[0]["a"], step(hamu_jax.transform(0.3, clip_norm=1.0))[0]["a"], rtol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"forget_axis": 0, "num_requests": 2}, {"blocks": "global"}])
def test_map_params(options: dict[str, Any]) -> None:
    """Leaves that belong to parameters are mapped; ours belong to blocks."""
    tx = optax.chain(hamu_jax.transform(0.3, **options), optax.adam(0.1))
    state = tx.init(RETAIN)
    mapped = optax.tree.map_params(tx, lambda x: x + 1, state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    np.testing.assert_array_equal(mapped[1][0].mu["a"], [1.0, 1.0])
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(mapped[0]), jax.tree.leaves(state[0]), strict=True))


@pytest.mark.parametrize(
    "wrapped",
    [
        optax.flatten(hamu_jax.transform(0.3)),
        optax.partition({"x": hamu_jax.transform(0.3), "y": optax.set_to_zero()}, {"a": "x", "b": "y"}),
    ],
    ids=["flatten", "partition"],
)
def test_wrappers_are_mentioned(wrapped: Any) -> None:
    with pytest.raises(ValueError, match=r"wrappers such as optax\.flatten, masked, partition and MultiSteps see the retain"):
        step(wrapped)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: hamu_jax.transform(np.True_),
            "improvement: got np.True_, expected a number of at least 0 or an optax schedule",
        ),
        (lambda: hamu_jax.transform(None), "improvement: got None, expected a number of at least 0 or an optax schedule"),
        (lambda: hamu_jax.transform(b"1"), "improvement: got b'1', expected a number"),
        (lambda: hamu_jax.transform({}), "improvement: got dict {}, expected a number"),
        (lambda: hamu_jax.transform(1j), "improvement: got 1j, expected a number"),
        (lambda: hamu_jax.transform(10**400), "improvement: got 10000"),
        (lambda: hamu_jax.transform(1e39), "improvement: got 1e+39, expected a number of at least 0 up to 3.4e+38"),
        (lambda: hamu_jax.transform(1.5, distribution="relative"), "improvement: got 1.5 with distribution='relative'"),
        (
            lambda: hamu_jax.transform(0.5, blocks=np.ones(2)),
            "blocks: got an array of shape (2,), expected 'leaf', 'global' or",
        ),
        (
            lambda: hamu_jax.transform(0.5, infeasible=["scale"]),
            "infeasible: got list ['scale'], expected one of scale, ascend",
        ),
        (lambda: hamu_jax.hamu("fast", 0.5), "learning_rate: got 'fast', expected a number of at least 0 or an optax schedule"),
        (lambda: hamu_jax.combine(rules.gru), "rule: got the function gru, expected a Rule"),
        (lambda: hamu_jax.combine("gru"), "rule: got 'gru', expected a Rule"),
        (lambda: hamu_jax.hardness({}, {}), "retain_grads: got a pytree without arrays"),
        (lambda: hamu_jax.paired_value_and_grad(None), "loss: got None, expected a function loss(params, batch) -> [batch]"),
    ],
)
def test_settings_of_a_wrong_kind(build: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: hamu_jax.transform(0.5, clip_norm=optax.constant_schedule(1.0)),
        lambda: hamu_jax.trade_off(RETAIN, FORGET, radius=optax.constant_schedule(1.0)),
        lambda: hamu_jax.objectives.npo(lambda _, b: b, lambda b: b, beta=optax.constant_schedule(1.0)),
        lambda: rules.cagrad(optax.constant_schedule(1.0)),
    ],
)
def test_no_schedule_is_offered_where_none_works(build: Any) -> None:
    with pytest.raises(ValueError, match=r"^\w+: got the function <lambda>, expected a (positive )?number( of at least 0)?$"):
        build()


def test_numpy_integers_and_arrays_of_one_number() -> None:
    options = {"clip_norm": jnp.float32(1.0), "forget_axis": np.int64(0), "num_requests": np.int32(2)}
    assert hamu_jax.get_requests(hamu_jax.transform(np.float64(0.1), **options).init(RETAIN)).change.shape == (2,)
    assert hamu_jax.trade_off(RETAIN, FORGET, points=np.int64(3)).improvement.shape == (3,)
    assert rules.gru(np.float32(0.5)) == rules.gru(0.5)
