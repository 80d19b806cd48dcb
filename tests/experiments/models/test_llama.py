"""The Llama-family models: transformers' logits, padding, generation, precision."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llama_fixtures import DATA, MODELS, forward, model, recorded, smollm2

from experiments.models import generation, hf_format, llama
from experiments.models.llama_config import LlamaConfig

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


def padded(tokens: Any, left: int, right: int) -> tuple[Any, Any]:
    """Tokens with padding of a token that means something, and the mask."""
    widths = ((0, 0), (left, right))
    return np.pad(tokens, widths, constant_values=7), np.pad(np.ones(tokens.shape, bool), widths)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str) -> None:
    tokens, expected = recorded(name)
    np.testing.assert_allclose(forward(*model(name), tokens, np.ones(tokens.shape, bool)), expected, rtol=0, atol=5e-5)
    assert np.std(expected) > 1.0  # not a model whose logits hardly depend on its input


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 5), (2, 3)])
def test_padding_changes_nothing(left: int, right: int) -> None:
    tokens, expected = recorded("llama3")
    logits = np.asarray(forward(*model("llama3"), *padded(tokens, left, right)))
    np.testing.assert_allclose(logits[:, left : left + tokens.shape[1]], expected, rtol=0, atol=5e-5)
    assert np.all(np.isfinite(logits))


def greedy(network: llama.Network, weights: Any, text: Any, length: int, eos: int) -> list[int]:
    """Without a cache: the whole text for every token, in one program of 25 tokens."""
    answer: list[int] = []
    while len(answer) < length and eos not in answer:
        whole = np.concatenate([text, answer]).astype(np.int32)
        tokens, mask = padded(whole[None], 0, 25 - len(whole))
        answer.append(int(np.argmax(forward(network, weights, tokens, mask)[0, len(whole) - 1])))
    return answer + [60] * (length - len(answer))


@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_is_greedy_and_ends(side: str) -> None:
    network, weights = model("llama3")
    texts = [recorded("llama3")[0][i, :length] for i, length in enumerate((4, 9))]
    both = [padded(text[None], *((9 - len(text), 0) if side == "left" else (0, 9 - len(text)))) for text in texts]
    tokens, mask = (np.concatenate(parts) for parts in zip(*both, strict=True))
    free = greedy(network, weights, texts[0], 8, -1)
    eos = free[3]
    answers = generation.generate(network, weights, tokens, mask, max_new_tokens=8, eos=(eos,), pad=60)
    assert np.asarray(answers).tolist() == [greedy(network, weights, text, 8, eos) for text in texts]
    assert eos in answers[0, :4]


def test_checkpointing_changes_no_gradient() -> None:
    network, weights = model("llama3")
    tokens, _ = recorded("llama3")

    def gradient(network: llama.Network) -> Any:
        return jax.jit(jax.grad(lambda w: jnp.mean(jnp.square(llama.forward(network, w, tokens)))))(weights)

    plain, again = gradient(network), gradient(dataclasses.replace(network, checkpoint=True))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(x)))), plain, again)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_is_kept_for_the_backward_pass(checkpoint: bool) -> None:
    """Of every layer its input and, without checkpointing, its linear maps' outputs: a norm's or a gate's is made again."""
    network, weights = model("llama3")
    network, tokens = dataclasses.replace(network, checkpoint=checkpoint), recorded("llama3")[0]
    traced = jax.make_jaxpr(jax.grad(lambda w: jnp.mean(jnp.square(llama.forward(network, w, tokens)))))(weights)
    scan = next(one for one in traced.jaxpr.eqns if one.primitive.name == "scan")
    sizes = network.config.projections()
    kept = sum(var.aval.size for var in scan.outvars[1:]) / (network.config.layers * tokens.size)
    linear = sum(outputs for _, outputs in sizes.values())
    assert network.config.width <= kept <= network.config.width + (0 if checkpoint else linear)


def test_bfloat16_is_near() -> None:
    network, weights = model("llama3")
    tokens, expected = recorded("llama3")
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights)
    logits = forward(dataclasses.replace(network, dtype="bfloat16"), half, tokens)
    assert logits.dtype == jnp.bfloat16
    error = np.abs(np.asarray(logits, np.float32) - expected)
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.std(expected)  # 8 bits: 0.4% a rounding, some dozen of them in a row


def test_the_module_is_the_function() -> None:
    network, weights = model("qwen2")
    tokens, expected = recorded("qwen2")
    np.testing.assert_allclose(llama.Llama(network, weights)(jnp.asarray(tokens)), expected, rtol=0, atol=5e-5)


def test_initial_weights_have_the_abstract_shapes() -> None:
    config = model("qwen2")[0].config
    weights = llama.init(config, jax.random.key(0), dtype=jnp.bfloat16)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    assert shapes == llama.abstract(config, jnp.bfloat16)
    assert 0.015 < float(jnp.std(weights["layers"]["up"]["kernel"].astype(jnp.float32))) < 0.025
    assert not np.any(weights["layers"]["q"]["bias"])


@pytest.mark.parametrize(("name", "value"), [("layers", 0), ("kv_heads", 3), ("head_dim", 3)])
def test_sizes_that_do_not_fit(name: str, value: int) -> None:
    sizes = {"vocabulary": 8, "width": 8, "hidden": 8, "layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 2}
    with pytest.raises(ValueError, match=f"{name}: got {value}, expected"):
        LlamaConfig(**{**sizes, name: value})


@pytest.mark.slow
def test_smollm2_answers_as_with_transformers() -> None:
    config, weights = hf_format.load(smollm2())
    records = json.loads((DATA / "smollm2.json").read_text(encoding="utf-8"))
    width = max(len(record["tokens"]) for record in records)
    both = [padded(np.array([record["tokens"]]), width - len(record["tokens"]), 0) for record in records]
    tokens, mask = (np.concatenate(parts) for parts in zip(*both, strict=True))
    network = llama.Network(config)
    logits = np.asarray(forward(network, weights, tokens, mask)[:, -1])
    answers = np.asarray(generation.generate(network, weights, tokens, mask, max_new_tokens=24, eos=(2,), pad=2))
    for record, own, answer in zip(records, logits, answers, strict=True):
        np.testing.assert_allclose(own[record["top_tokens"]], record["top_logits"], rtol=0, atol=1e-2)
        assert np.max(np.delete(own, record["top_tokens"])) < record["top_logits"][-1] + 1e-2
        assert answer[: len(record["answer"])].tolist() == record["answer"]
