"""Models, gradients and data at the edge of what there is; others are where the part that meets them is tested."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import examples, run

import hamu_jax


def scalar_loss(params: Any, batch: Any) -> Any:
    """The squared error of a model that is one number."""
    return (batch["x"][:, 0] * params - batch["y"]) ** 2


def test_a_model_of_one_parameter() -> None:
    """All gradients are parallel: the step is the retain gradient's, cut to what the promise leaves, or nothing is left."""
    params = jnp.float32(2.0)
    tx = hamu_jax.transform(0.25)
    update, state = tx.update(jnp.float32(3.0), tx.init(params), forget_grads=jnp.float32(-1.0))
    # A step of d changes the losses by 3 d and -d: the forget loss rises by at least 1/4 if d <= -1/4; the ball ends at -3.
    assert float(update) == pytest.approx(3.0)
    assert bool(hamu_jax.get_hardness(state).feasible[0])
    result = run(loss=scalar_loss, params=params, optimizer=hamu_jax.hamu(0.01, 0.1), steps=3)
    assert (result.status, result.params.shape) == ("completed", ())


def test_sets_of_one_example() -> None:
    one, other = examples(3, 1), examples(4, 1)
    result = run(retain=one, forget=other, steps=3, measure_every=1)
    assert result.status == "completed"
    assert np.all(result.history.column("forget_measured")[:3] > 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Module:
    """A model as equinox has them: arrays, nothing, and settings that are no leaves."""

    weight: Any
    bias: Any
    activation: str = dataclasses.field(metadata={"static": True}, default="tanh")


def test_a_module_with_nothing_and_settings_in_it() -> None:
    params = Module(jnp.array([0.9, -1.8, 0.3], jnp.float32), None)

    def module_loss(params: Module, batch: Any) -> Any:
        return (getattr(jnp, params.activation)(batch["x"] @ params.weight) - batch["y"]) ** 2

    result = run(loss=module_loss, params=params, steps=3)
    assert result.status == "completed"
    assert (result.params.bias, result.params.activation) == (None, "tanh")
    assert jax.tree.structure(result.params) == jax.tree.structure(params)


def test_a_loss_that_overflows_in_float16() -> None:
    """Nothing is done to the parameters."""
    params = {"w": jnp.full(3, 60000.0, jnp.float16)}

    def narrow(params: Any, batch: Any) -> Any:
        return batch["x"].astype(jnp.float16) @ params["w"] * jnp.float16(10.0)

    result = run(loss=narrow, params=params, steps=3)
    assert (result.status, result.steps) == ("nonfinite", 0)
    np.testing.assert_array_equal(result.params["w"], params["w"])


def widened(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def test_gradients_whose_squares_overflow_in_float16() -> None:
    """Inner products are taken in float32."""
    retain, forget = {"w": jnp.array([6e4, 0.0], jnp.float16)}, {"w": jnp.array([3e4, 4e4], jnp.float16)}
    tx = hamu_jax.transform(0.5, distribution="relative")
    update, state = tx.update(retain, tx.init(retain), forget_grads=forget)
    wide, _ = tx.update(widened(retain), tx.init(widened(retain)), forget_grads=widened(forget))
    assert update["w"].dtype == jnp.float16
    assert bool(jnp.all(hamu_jax.get_hardness(state).finite))
    np.testing.assert_allclose(update["w"].astype(np.float32), wide["w"], rtol=1e-3)


@pytest.mark.parametrize("variant", ["q", "u"])
def test_the_update_has_the_dtypes_of_the_retain_gradient(variant: Any) -> None:
    """Whatever those of the forget gradient are, which is the first row of variant "u"."""
    retain = {"a": jnp.ones(3), "b": jnp.arange(3.0, dtype=jnp.bfloat16)}
    forget = {"a": jnp.arange(3.0, dtype=jnp.float16), "b": jnp.ones(3)}
    tx = hamu_jax.transform(0.1, variant=variant)
    updates, _ = tx.update(retain, tx.init(retain), forget_grads=forget)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, retain)
