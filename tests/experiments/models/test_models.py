"""The experiments' models, and what forward mode makes of them: nnx modules as users have them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from two_gradient_problems import PLAIN_COMPILE, flat

import hamu_jax
from experiments.cost.small_models import SMALL_MODELS
from experiments.models.transformer import Transformer

pytestmark = pytest.mark.usefixtures("as_users_promote")


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_directional_equals_the_contracted_gradients(name: str) -> None:
    loss, params, batch = SMALL_MODELS[name](3)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)

    def both(params: Any, batch: Any, direction: Any) -> Any:
        return hamu_jax.directional(loss, params, batch, direction), hamu_jax.per_example_grads(loss, params, batch)

    changes, grads = jax.jit(both, compiler_options=PLAIN_COMPILE)(params, batch, direction)
    rows, v = flat(grads), flat(direction, 0)
    scale = np.linalg.norm(rows, axis=1) * np.linalg.norm(v)
    assert np.all(scale > 0)
    np.testing.assert_allclose(changes / scale, rows @ v / scale, rtol=0, atol=1e-6)


def test_the_transformer_does_not_look_ahead() -> None:
    model = Transformer(11, 6, width=8, heads=2, layers=1, rngs=nnx.Rngs(0))
    tokens = jnp.arange(6)[None]
    logits, changed = (np.asarray(model(x)) for x in (tokens, tokens.at[0, 4].set(9)))
    assert logits.shape == (1, 6, 11)
    np.testing.assert_array_equal(logits[0, :4], changed[0, :4])
    assert np.all(np.any(logits[0, 4:] != changed[0, 4:], axis=1))
