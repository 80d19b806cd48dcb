"""Per-example gradients as factors, for every kind of use of a parameter, against `vmap(grad)`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.models import llama, lora
from experiments.models.cnn import CNN
from experiments.models.llama_config import LlamaConfig
from experiments.models.resnet import ResNet
from hamu_jax import Stacked, gram, objectives
from hamu_jax._gradients.factored.gradients import example_gradients, explain
from hamu_jax._gradients.gram_of_examples import Examples, products, squared_norms
from hamu_jax._kernel.blocks import partition
from hamu_jax._kernel.inner_products import cross_gram

SIZE = 5
HOWS = ("cheapest", "outer", "formed")
RNG = np.random.default_rng(3)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape)


def by_rows(path: Any) -> Any:
    """Every row of a leaf that is named so is a block."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return Stacked(name) if name.startswith("stack") else name


def convolution(x: Any, kernel: Any, **options: Any) -> Any:
    strides, padding = options.pop("strides", (1, 1)), options.pop("padding", "SAME")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def total(x: Any) -> Any:
    return jnp.sum(jnp.sin(x).reshape(x.shape[0], -1), axis=1)


@jax.custom_jvp
def doubled(x: Any) -> Any:
    """A function whose derivative is its own affair: ten times what it should be."""
    return 2.0 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 20.0 * tangents[0]))


def scanned(p: Any, b: Any, *, remat: bool) -> Any:
    def layer(x: Any, w: Any) -> Any:
        return jnp.tanh(x @ w["w"] + w["b"][None]), None

    body = jax.checkpoint(layer) if remat else layer
    return total(jax.lax.scan(body, b["x"], {"w": p["stack_w"], "b": p["stack_b"]})[0])


def recurrent(p: Any, b: Any) -> Any:
    def step(state: Any, x: Any) -> Any:
        state = jnp.tanh(state @ p["state"] + x @ p["input"])
        return state, state @ p["out"].T

    start = jnp.zeros((b["x"].shape[0], 3))
    return total(jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(b["sequence"], 0, 1))[1], 0, 1))


def chosen(p: Any, b: Any) -> Any:
    """For a batch of one example: under `vmap` every branch is a choice between parameters too, which only autodiff knows."""
    branches = (lambda x: x @ p["a"], lambda x: jnp.sin(x @ p["b"]), lambda x: 2.0 * x)
    return total(jax.lax.switch(jnp.clip(jnp.sum(b["x"] > 0), 0, 2), branches, b["x"]))


def unrolled(p: Any, b: Any) -> Any:
    x = b["x"]
    for i in range(3):
        x = jnp.tanh(x @ p["stack"][i])
    return total(x)


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], set[str]]] = {
    # name: loss, parameters, those of which autodiff must form the gradients
    "bias and scale": (
        lambda p, b: total((b["x"] @ p["w"] + p["bias"][None]) * p["scale"][None]),
        {"w": normal(3, 4), "bias": normal(4), "scale": normal(4)},
        {"bias", "scale"},
    ),
    "a vector": (lambda p, b: jnp.sin(b["x"] @ p["w"]), {"w": normal(3)}, set()),
    "a sequence": (
        lambda p, b: total(jnp.tanh(b["sequence"] @ p["w"]) @ p["v"]),
        {"w": normal(3, 4), "v": normal(4, 2)},
        set(),
    ),
    "transposed, cast, reshaped": (
        lambda p, b: total(b["x"] @ p["w"].T) + total(jnp.einsum("bi,iho->bho", b["x"], p["v"].reshape(3, 2, 2))),
        {"w": normal(4, 3), "v": normal(3, 4)},
        set(),
    ),
    "used twice": (lambda p, b: total(jnp.tanh(b["x"] @ p["w"]) @ p["w"]), {"w": normal(3, 3)}, set()),
    "used both ways": (lambda p, b: total(jnp.tanh(b["x"] @ p["w"]) @ p["w"].T), {"w": normal(3, 3)}, set()),
    "used in two shapes": (
        lambda p, b: total(b["x"] @ p["w"]) + total(jnp.concatenate([b["x"], b["x"]], 1) @ p["w"].reshape(6, 2)),
        {"w": normal(3, 4)},
        {"w"},
    ),
    "in a batch of weights": (
        lambda p, b: total(jnp.einsum("bti,hio->bhto", b["sequence"], p["w"])),
        {"w": normal(2, 3, 4)},
        set(),
    ),
    "weights with a batch axis": (
        lambda p, b: total(jnp.einsum("bti,tio->bto", b["sequence"], p["stack"])),
        {"stack": normal(6, 3, 4)},
        set(),
    ),
    "slices": (
        lambda p, b: total(jnp.tanh(b["x"] @ p["w"][:, :3]) @ p["w"][:, 3:]),
        {"w": normal(3, 7)},
        set(),
    ),
    "slices that overlap": (
        lambda p, b: total(b["x"] @ p["w"][:, :3]) + total(b["x"] @ p["w"][:, 2:]),
        {"w": normal(3, 7)},
        {"w"},
    ),
    "layers one by one": (unrolled, {"stack": normal(3, 3, 3)}, set()),
    "a product of parameters": (
        lambda p, b: total(b["x"] @ (p["a"] @ p["b"])),
        {"a": normal(3, 2), "b": normal(2, 4)},
        {"a", "b"},
    ),
    "a function of a parameter": (lambda p, b: total(b["x"] @ jnp.exp(p["w"])), {"w": normal(3, 4)}, {"w"}),
    "a custom derivative of a parameter": (lambda p, b: total(b["x"] @ doubled(p["w"])), {"w": normal(3, 4)}, {"w"}),
    "a custom derivative of activations": (lambda p, b: total(doubled(b["x"] @ p["w"])), {"w": normal(3, 4)}, set()),
    "stopped": (
        lambda p, b: total(b["x"] @ p["w"]) * jnp.sum(jax.lax.stop_gradient(p["frozen"])),
        {"w": normal(3, 4), "frozen": normal(3)},
        set(),
    ),
    "unused": (lambda p, b: total(b["x"] @ p["w"]), {"w": normal(3, 4), "unused": normal(100)}, set()),
    "looked up": (lambda p, b: total(p["table"][b["tokens"]] @ p["w"]), {"table": normal(7, 3), "w": normal(3, 2)}, set()),
    "looked up out of bounds": (
        lambda p, b: (
            total(jnp.take(p["table"], b["tokens"] + 2, axis=0, mode="clip"))
            + total(p["other"].at[b["tokens"] + 2].get(mode="fill", fill_value=0.5))
        ),
        {"table": normal(7, 3), "other": normal(7, 3)},
        set(),
    ),
    "columns looked up": (
        lambda p, b: total(jnp.take(p["table"], b["tokens"], axis=1).swapaxes(0, 1)),
        {"table": normal(3, 7)},
        set(),
    ),
    "tied": (lambda p, b: total(jnp.tanh(p["table"][b["tokens"]]) @ p["table"].T), {"table": normal(7, 3)}, set()),
    "a scan over layers": (
        functools.partial(scanned, remat=False),
        {"stack_w": normal(2, 3, 3), "stack_b": normal(2, 3)},
        {"stack_b"},
    ),
    "a scan of checkpoints": (
        functools.partial(scanned, remat=True),
        {"stack_w": normal(2, 3, 3), "stack_b": normal(2, 3)},
        {"stack_b"},
    ),
    "a recurrent network": (recurrent, {"state": normal(3, 3), "input": normal(3, 3), "out": normal(2, 3)}, set()),
    "branches": (chosen, {"a": normal(3, 3), "b": normal(3, 3)}, set()),
    "a convolution": (lambda p, b: total(convolution(b["image"], p["k"], strides=(2, 1))), {"k": normal(3, 2, 2, 3)}, set()),
    "a convolution in groups": (
        lambda p, b: total(convolution(b["image"], p["k"], feature_group_count=2)),
        {"k": normal(3, 3, 1, 4)},
        set(),
    ),
    "a dilated convolution": (
        lambda p, b: total(
            convolution(b["image"], p["k"], padding=((1, 0), (-1, 2)), lhs_dilation=(2, 1), rhs_dilation=(1, 2))
        ),
        {"k": normal(2, 2, 2, 3)},
        set(),
    ),
}


def batch_of(dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    return {
        "x": rng.normal(size=(SIZE, 3)).astype(dtype),
        "sequence": rng.normal(size=(SIZE, 6, 3)).astype(dtype),
        "image": rng.normal(size=(SIZE, 5, 6, 2)).astype(dtype),
        "tokens": rng.integers(0, 7, (SIZE, 6)),
    }


def rows_of(loss: Any, params: Any, batch: Any) -> Any:
    """Every example's gradient, by `vmap(grad)`."""
    single = jax.grad(lambda p, example: loss(p, jax.tree.map(lambda x: x[None], example))[0])
    return jax.jit(jax.vmap(single, in_axes=(None, 0)))(params, batch)


def check(loss: Any, params: Any, batch: Any, blocks: Any, *, rtol: float, hows: Any = HOWS) -> None:
    """All that can be asked of the gradients, against `vmap(grad)`; errors relative to the largest number of a block."""
    split = partition(params, blocks)
    each = rows_of(loss, params, batch)
    size = jax.tree.leaves(batch)[0].shape[0]
    rng = np.random.default_rng(8)
    others = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(2, *p.shape)), p.dtype), params)
    weights = jnp.asarray(rng.normal(size=(len(split.labels), size)), jax.tree.leaves(params)[0].dtype)
    gram_of_each = cross_gram(each, each, split)

    def close(actual: Any, expected: Any) -> None:
        expected = np.asarray(expected, np.float64)
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * max(float(np.abs(expected).max(initial=0)), 1e-30))

    for how in hows:

        def run(params: Any, batch: Any, how: Any = how) -> Any:
            grads = example_gradients(loss, params, batch, split, how)
            summed = grads.weighted_sum(weights, params, split)
            return grads.products(grads, split), grads.squares(split), grads.against(others, split), summed

        inner, squares, against, summed = jax.jit(run)(params, batch)
        close(inner, gram_of_each)
        close(squares, jnp.diagonal(gram_of_each, axis1=1, axis2=2))
        close(against, cross_gram(others, each, split))
        for leaf, g, slot, stacked in zip(*map(jax.tree.leaves, (summed, each)), split.slots, split.stacked, strict=True):
            spread = np.asarray(weights)[np.asarray(slot)]
            expected = np.einsum("nk,kn...->n...", spread, g) if stacked else np.einsum("k,k...->...", spread[0], g)
            close(leaf, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_use(name: str) -> None:
    loss, params, formed = CASES[name]
    params, batch = jax.tree.map(jnp.asarray, params), batch_of()
    check(loss, params, batch, by_rows, rtol=1e-12)
    words = explain(loss, params, batch, partition(params, "global")).splitlines()
    assert {line.split(":")[0] for line in words if ": formed (" in line} == formed
    assert len(words) == len(params)


def test_a_parameter_whose_rows_are_blocks_but_not_of_the_matrices() -> None:
    params = {"stack": jnp.asarray(normal(3, 4), jnp.float32)}
    check(lambda p, b: total(b["x"] @ p["stack"]), params, batch_of(np.float32), by_rows, rtol=1e-5)


OPERATIONS = st.lists(
    st.sampled_from(["dense", "tied", "transposed", "bias", "scale", "look-up", "scan", "slice"]), min_size=1, max_size=5
)


@pytest.mark.usefixtures("x64")
def test_random_networks() -> None:
    """Random compositions over a few shared parameters."""
    params = {
        "w": normal(4, 4),
        "bias": normal(4),
        "table": normal(7, 4),
        "stack": normal(2, 4, 4),
        "wide": normal(4, 8),
        "unused": normal(3),
    }
    params = jax.tree.map(lambda x: 0.5 * jnp.asarray(x), params)

    @settings(max_examples=12)
    @given(OPERATIONS)
    def run(operations: list[str]) -> None:
        def loss(p: Any, b: Any) -> Any:
            x = p["table"][b["tokens"]]
            for operation in operations:
                match operation:
                    case "dense":
                        x = jnp.tanh(x @ p["w"])
                    case "tied":
                        x = jax.nn.softmax(x @ p["table"].T) @ p["table"]
                    case "transposed":
                        x = jnp.einsum("bti,oi->bto", x, p["w"])
                    case "bias":
                        x = x + p["bias"][None, None]
                    case "scale":
                        x = jnp.sin(x * p["bias"][None, None])
                    case "look-up":
                        x = x + p["w"][b["tokens"] % 4]
                    case "scan":
                        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"])[0]
                    case _:
                        x = x @ p["wide"][:, 4:] + jnp.sin(x) @ p["wide"][:, :4]
            return total(x)

        check(loss, params, batch_of(), by_rows, rtol=1e-11, hows=("cheapest",))

    run()


def image_model(module: nnx.Module) -> tuple[Any, Any]:
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return objectives.cross_entropy(lambda p, b: nnx.merge(graph, p, rest)(b["image"])), params


def test_the_cnn_of_the_digits() -> None:
    loss, params = image_model(CNN(10, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(6, 8, 8, 1)).astype(np.float32), "label": rng.integers(0, 10, 6)}
    check(loss, params, batch, "leaf", rtol=1e-5)


@pytest.mark.slow
def test_resnet20() -> None:
    loss, params = image_model(ResNet(10, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(3, 32, 32, 3)).astype(np.float32), "label": rng.integers(0, 10, 3)}
    check(loss, params, batch, "leaf", rtol=2e-5, hows=("cheapest",))


def test_linen() -> None:
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.LayerNorm()(linen.Embed(7, 8)(x))
            x = x + linen.MultiHeadDotProductAttention(num_heads=2)(x, x)
            return linen.Dense(1)(x)[..., 0]

    tokens = batch_of()["tokens"]
    net = Net()
    params = net.init(jax.random.key(0), tokens[:1])
    loss = lambda p, b: total(net.apply(p, b))  # noqa: E731
    check(loss, params, tokens, "leaf", rtol=1e-5)


CONFIG = LlamaConfig(vocabulary=11, width=8, hidden=12, layers=2, heads=2, kv_heads=1, head_dim=4, tied=True)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_llama(checkpoint: bool) -> None:
    """All parameters, by tensor of every layer: scanned, with checkpoints, its embedding tied."""
    weights = llama.init(CONFIG, jax.random.key(0), deviation=0.3)
    network = llama.Network(CONFIG, checkpoint=checkpoint)
    loss = objectives.causal_cross_entropy(lambda p, b: llama.forward(network, p, b["tokens"]))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        check(loss, weights, texts(), llama.blocks, rtol=2e-5, hows=("outer",))
        words = explain(loss, weights, texts(), partition(weights, "global"))
    assert "embedding: factored (1 LookUp, 1 MatrixProduct)" in words
    assert "layers/q/kernel: factored (1 MatrixProduct)" in words


def test_lora() -> None:
    config = lora.LoraConfig(rank=2, dropout=0.0)
    weights = llama.init(CONFIG, jax.random.key(0), deviation=0.3)
    adapter = lora.init(config, weights, jax.random.key(1))
    adapter = jax.tree.map(lambda x: x + 0.1, adapter)
    network = llama.Network(CONFIG, config)
    loss = objectives.causal_cross_entropy(lambda p, b: llama.forward(network, weights, b["tokens"], adapter=p))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        check(loss, adapter, texts(), lora.blocks, rtol=2e-5, hows=("cheapest",))
        assert "formed" not in explain(loss, adapter, texts(), partition(adapter, "global"))


def texts() -> dict[str, Any]:
    tokens = np.random.default_rng(1).integers(0, 11, (4, 6)).astype(np.int32)
    return {"tokens": tokens, "label": np.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=-1)}


def test_half_precision() -> None:
    """bfloat16 parameters and activations, summed in float32: as exact as bfloat16 cotangents are."""
    loss = lambda p, b: total(jnp.tanh(b["x"] @ p["w"]) @ p["v"]).astype(jnp.float32)  # noqa: E731
    params = jax.tree.map(jnp.asarray, {"w": normal(3, 16), "v": normal(16, 8)})
    wide, batch = jax.tree.map(lambda x: x.astype(jnp.float32), (params, {"x": jnp.asarray(batch_of()["x"])}))
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (wide, batch))
    expected, actual = gram(loss, wide, batch), gram(loss, *narrow)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, atol=0.03 * float(jnp.max(jnp.abs(expected))))


def mlp(params: Any, batch: Any) -> Any:
    return total(jnp.tanh(batch @ params["w"]) @ params["v"])


def test_no_gradient_is_formed_and_nothing_is_traced_twice() -> None:
    """Neither the Gram matrix nor the norms of 16 examples have an array of 16 gradients of a matrix, before or after XLA."""
    params, batch = {"w": jnp.ones((64, 96)), "v": jnp.ones((96, 32))}, jnp.ones((16, 64))
    split, traces = partition(params, "leaf"), []

    def loss(params: Any, batch: Any) -> Any:
        traces.append(batch.shape)
        return mlp(params, batch)

    def both(params: Any, batch: Any) -> Any:
        each = Examples(batch, None, jnp.ones(16))
        inner = products(loss, params, each, 16, partition=split, microbatch_size=None).gram
        return inner, squared_norms(loss, params, batch, partition=split, microbatch_size=None)

    function = jax.jit(both)
    compiled = function.lower(params, batch).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * 64 * 96 * 4 / 2
    assert not any(shape in compiled.as_text() for shape in ("[16,64,96]", "[16,96,32]", "[16,6144]", "[16,3072]"))
    function(params, batch), function(params, 2.0 * batch)
    assert set(traces) == {(1, 64)}
    assert len(traces) <= 2  # one per use
