"""LoRA: PEFT's logits, nothing at first, merged, dropped, and inside hamu_jax's functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llama_fixtures import DATA, forward, model, recorded

import hamu_jax
from experiments.models import llama, lora, peft_format
from experiments.models.frozen import Frozen
from hamu_jax import objectives

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


def adapted() -> tuple[llama.Network, Any, Any]:
    """The model that PEFT's adapter belongs to, and the adapter."""
    config, adapter = peft_format.load(DATA / "adapter")
    network, weights = model("llama3")
    return llama.Network(network.config, config), weights, adapter


def test_logits_are_those_of_peft() -> None:
    network, weights, adapter = adapted()
    tokens, expected = recorded("adapter")
    np.testing.assert_allclose(forward(network, weights, tokens, adapter=adapter), expected, rtol=0, atol=1e-4)
    assert np.max(np.abs(expected - recorded("llama3")[1])) > 1.0  # it does change something


def test_merged_equals_beside() -> None:
    network, weights, adapter = adapted()
    tokens, expected = recorded("adapter")
    merged = lora.merge(network.lora, weights, adapter)
    np.testing.assert_allclose(
        forward(model("llama3")[0], merged, tokens, np.ones(tokens.shape, bool)), expected, rtol=0, atol=1e-4
    )


def test_a_new_adapter_changes_nothing() -> None:
    network, weights, _ = adapted()
    tokens, expected = recorded("llama3")
    adapter = lora.init(network.lora, llama.abstract(network.config), jax.random.key(0))
    np.testing.assert_allclose(forward(network, weights, tokens, adapter=adapter), expected, rtol=0, atol=5e-5)
    a = np.asarray(adapter["down"]["a"])
    bound = 1 / np.sqrt(network.config.hidden)
    assert 0.9 * bound < np.max(np.abs(a)) <= bound
    assert not np.any(adapter["down"]["b"])


def test_dropout_needs_a_key_and_keeps_the_mean() -> None:
    config = lora.LoraConfig(rank=2, alpha=2.0, dropout=0.25)
    own = {"a": jnp.ones((4, 2)), "b": jnp.ones((2, 1))}
    x = jnp.ones((20000, 4))
    np.testing.assert_array_equal(lora.change(config, own, x), 8.0)
    dropped = np.asarray(lora.change(config, own, x, jax.random.key(0)))
    # A sum of 4 inputs, each 4/3 with probability 3/4, twice over: deviation 2 sqrt(4/3) = 2.31, of the mean 0.0163.
    np.testing.assert_allclose(np.mean(dropped), 8.0, atol=5 * 0.0163)
    np.testing.assert_allclose(np.std(dropped), 2 * np.sqrt(4 / 3), rtol=0.03)


def test_layers_and_targets_drop_different_inputs() -> None:
    network, weights, adapter = adapted()
    tokens, expected = recorded("adapter")
    twice = [np.asarray(forward(network, weights, tokens, adapter=adapter, key=jax.random.key(seed))) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(twice[0], twice[1])
    assert np.all(np.abs(twice[0] - twice[2]).max(axis=(0, 2))[1:] > 1e-3)
    assert np.max(np.abs(twice[0] - expected)) > 1e-2


def test_an_adapter_wants_a_network_with_lora() -> None:
    network, weights = model("llama3")
    with pytest.raises(ValueError, match="adapter: got one for a network without lora"):
        llama.forward(network, weights, jnp.zeros((1, 2), jnp.int32), adapter=adapted()[2])


@pytest.mark.parametrize(
    ("name", "value"), [("rank", 0), ("dropout", 1.0), ("targets", ()), ("targets", ("q", "q")), ("targets", ("x",))]
)
def test_settings_that_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: got"):
        lora.LoraConfig(**{name: value})


def _data(count: int, seed: int) -> dict[str, Any]:
    """Texts of 6 tokens, of which the last three are answers."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 61, (count, 7)).astype(np.int32)
    label = np.where(np.arange(6) >= 3, tokens[:, 1:], -1).astype(np.int32)
    return {"tokens": tokens[:, :-1], "mask": np.ones((count, 6), bool), "label": label}


def test_the_driver_unlearns_an_adapter_beside_frozen_weights() -> None:
    network, weights, adapter = adapted()
    base = Frozen(weights)
    loss = objectives.causal_cross_entropy(
        lambda own, batch: llama.forward(network, base(), batch["tokens"], batch["mask"], adapter=own)
    )
    retain, forget = _data(4, 0), _data(4, 1)
    adapter = {name: adapter[name] for name in ("v", "down")}
    optimizer = hamu_jax.hamu(0.05, 0.3, distribution="relative", blocks=lora.blocks)
    result = hamu_jax.unlearn(loss, adapter, retain, forget, optimizer, steps=4, batch_size=4, progress=False)
    assert result.status == "completed"
    assert np.all(np.diff(result.history.measured("forget_loss")[1]) > 0)
    labels = hamu_jax.block_labels(adapter, lora.blocks)
    assert len(labels) == 2 * 2 * 2
    assert "down/b/1" in labels


def test_gradients_through_frozen_weights() -> None:
    network, weights, adapter = adapted()
    base, batch = Frozen(weights), _data(4, 0)

    def loss_of(held: Any) -> Any:
        return objectives.causal_cross_entropy(
            lambda own, batch: llama.forward(network, held(), batch["tokens"], batch["mask"], adapter=own)
        )

    def whole(own: Any) -> Any:
        return jnp.mean(loss_of(lambda: weights)(own, batch))

    each = jax.jit(lambda own: hamu_jax.per_example_grads(loss_of(base), own, batch, microbatch_size=2))(adapter)
    expected = jax.jit(jax.grad(whole))(adapter)
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), each)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(y)))), mean, expected)
    lowered = jax.jit(lambda own: jnp.mean(loss_of(base)(own, batch))).lower(adapter).as_text()
    baked = jax.jit(lambda own: jnp.mean(loss_of(lambda: weights)(own, batch))).lower(adapter).as_text()
    assert 'dense<"0x' not in lowered
    assert 'dense<"0x' in baked
