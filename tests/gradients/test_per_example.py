"""Per-example gradients and what is had without them, against naive loops in float64."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_gradient_problems import flat

import hamu_jax
from hamu_jax import Stacked, directional, gram, per_example_grads, per_example_norms, weighted_grad
from hamu_jax._gradients.per_example import group_grads

SIZE = 10
SIZES = [None, 1, 5, 4, 100]  # all at once, one at a time, a divisor, one that leaves a remainder, more than there are


def mlp(params: Any, batch: Any) -> jax.Array:
    """A regression with one hidden layer."""
    return (jnp.tanh(batch["x"] @ params["hidden"]) @ params["out"] - batch["y"]) ** 2


def linear(params: Any, batch: Any) -> jax.Array:
    """A loss whose gradients are the examples."""
    return params * batch


def cnn(params: Any, batch: Any) -> jax.Array:
    """A convolution, the mean over pixels, a head; cross-entropy."""
    image = batch["x"][..., None]
    x = jax.lax.conv_general_dilated(image, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    logits = jnp.mean(jax.nn.gelu(x), axis=(1, 2)) @ params["head"]
    return entropy(logits, batch["y"])


def transformer(params: Any, batch: Any) -> jax.Array:
    """Embedding, one pre-norm block of attention and MLP, tied head: the mean entropy of the next token."""

    def normal(x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)

    x = params["embedding"][batch["x"]]
    query, key, value = jnp.einsum("btd,sde->sbte", normal(x), params["attention"])
    scores = jnp.einsum("bte,bse->bts", query, key) / 2.0
    causal = jnp.broadcast_to(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores.shape)
    x = x + jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1) @ value
    x = x + jax.nn.gelu(normal(x) @ params["up"]) @ params["down"]
    return jnp.mean(entropy(normal(x) @ params["embedding"].T, batch["y"]), axis=-1)


def entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


LOSSES = {"mlp": mlp, "cnn": cnn, "transformer": transformer}
SHAPES = {
    "mlp": {"hidden": (3, 4), "out": (4,)},
    "cnn": {"kernel": (3, 3, 1, 4), "head": (4, 3)},
    "transformer": {"embedding": (7, 4), "attention": (3, 4, 4), "up": (4, 8), "down": (8, 4)},
}


def problem(name: str, dtype: Any = np.float32, size: int = SIZE) -> tuple[Any, Any, Any, Any]:
    """`(loss, params, batch, direction)`."""
    rng = np.random.default_rng(5)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    params, direction = ({key: normal(*shape) for key, shape in SHAPES[name].items()} for _ in range(2))
    batch = {
        "mlp": lambda: {"x": normal(size, 3), "y": normal(size)},
        "cnn": lambda: {"x": normal(size, 5, 5), "y": jnp.asarray(rng.integers(0, 3, size))},
        "transformer": lambda: dict(zip("xy", jnp.asarray(rng.integers(0, 7, (2, size, 6))), strict=True)),
    }[name]()
    return LOSSES[name], params, batch, direction


@functools.cache
def oracle() -> tuple[Any, Any, Any, np.ndarray, np.ndarray]:
    """The MLP in float64: `(params, batch, direction, the gradients by a loop [batch, n], the direction [n])`."""
    _, params, batch, direction = problem("mlp", np.float64)
    single = jax.jit(jax.grad(lambda p, example: mlp(p, example)[0]))
    loop = [single(params, jax.tree.map(lambda x, i=i: x[i : i + 1], batch)) for i in range(SIZE)]
    return params, batch, direction, np.stack([flat(g, 0) for g in loop]), flat(direction, 0)


WEIGHTS = np.random.default_rng(6).normal(size=SIZE)  # of both signs
GROUPS = np.array([2, 0, 2, 2, 0, 4, 1, 2, 1, 1])  # group 3 is empty
MEANS = np.stack([member / max(member.sum(), 1) for member in (group == GROUPS for group in range(5))])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("microbatch_size", SIZES)
class TestAgainstALoop:
    def test_per_example_grads(self, microbatch_size: int | None) -> None:
        params, batch, _, expected, _ = oracle()
        grads = per_example_grads(mlp, params, batch, microbatch_size)
        assert jax.tree.map(jnp.shape, grads) == {"hidden": (SIZE, 3, 4), "out": (SIZE, 4)}
        np.testing.assert_allclose(flat(grads), expected, rtol=1e-12, atol=1e-14)

    def test_directional(self, microbatch_size: int | None) -> None:
        params, batch, direction, expected, v = oracle()
        np.testing.assert_allclose(directional(mlp, params, batch, direction, microbatch_size), expected @ v, rtol=1e-11)

    def test_weighted_grad(self, microbatch_size: int | None) -> None:
        params, batch, _, expected, _ = oracle()
        grads = weighted_grad(mlp, params, batch, jnp.asarray(WEIGHTS), microbatch_size)
        np.testing.assert_allclose(flat(grads, 0), WEIGHTS @ expected, rtol=1e-12, atol=1e-13)

    def test_weighted_grad_is_the_adjoint_of_directional(self, microbatch_size: int | None) -> None:
        """`sum_i w_i <g_i, v> = <sum_i w_i g_i, v>`."""
        params, batch, direction, _, v = oracle()
        changes = directional(mlp, params, batch, direction, microbatch_size)
        grads = weighted_grad(mlp, params, batch, jnp.asarray(WEIGHTS), microbatch_size)
        np.testing.assert_allclose(WEIGHTS @ np.asarray(changes), flat(grads, 0) @ v, rtol=1e-12)

    def test_per_example_norms(self, microbatch_size: int | None) -> None:
        params, batch, _, expected, _ = oracle()
        np.testing.assert_allclose(
            per_example_norms(mlp, params, batch, microbatch_size=microbatch_size)[0],
            np.linalg.norm(expected, axis=1),
            rtol=1e-12,
        )

    def test_gram(self, microbatch_size: int | None) -> None:
        params, batch, _, g, _ = oracle()
        whole = gram(mlp, params, batch, blocks="global", microbatch_size=microbatch_size)
        np.testing.assert_allclose(whole, (g @ g.T)[None], rtol=1e-11, atol=1e-12)

    def test_gram_per_block(self, microbatch_size: int | None) -> None:
        params, batch, _, g, _ = oracle()
        leaves = gram(mlp, params, batch, blocks="leaf", microbatch_size=microbatch_size)
        expected = np.stack([part @ part.T for part in (g[:, :12], g[:, 12:])])
        np.testing.assert_allclose(leaves, expected, rtol=1e-11, atol=1e-12)

    def test_gram_of_groups(self, microbatch_size: int | None) -> None:
        params, batch, _, g, _ = oracle()
        options = {"groups": jnp.asarray(GROUPS), "num_groups": 5, "microbatch_size": microbatch_size}
        means = MEANS @ g
        leaves = gram(mlp, params, batch, blocks="leaf", **options)
        expected = np.stack([part @ part.T for part in (means[:, :12], means[:, 12:])])
        assert not np.any(leaves[:, 3]), "an empty group's gradient is 0"
        np.testing.assert_allclose(leaves, expected, rtol=1e-11, atol=1e-12)

    def test_group_grads(self, microbatch_size: int | None) -> None:
        params, batch, _, g, _ = oracle()
        means = group_grads(mlp, params, batch, jnp.asarray(GROUPS), num_groups=5, microbatch_size=microbatch_size)
        np.testing.assert_allclose(flat(means), MEANS @ g, rtol=1e-11, atol=1e-13)


def test_gram_of_numpy_examples_in_full_microbatches() -> None:
    """Nothing is filled up, so nothing makes them JAX's: a traced number can't index them."""
    examples = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    result = gram(lambda w, x: x @ w, jnp.ones(3), examples, microbatch_size=2)
    np.testing.assert_allclose(result[0], examples @ examples.T, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gram_of_stacked_layers() -> None:
    """A leaf whose leading axis counts blocks: one Gram matrix a layer."""
    params = {"layers": jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))}
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3, 4)))
    blocks = gram(lambda p, x: jnp.einsum("bnk,nk->b", x, p["layers"]), params, x, blocks=lambda _: Stacked("layer"))
    np.testing.assert_allclose(blocks, np.einsum("ink,jnk->nij", x, x), rtol=1e-13)


@pytest.mark.parametrize(("name", "microbatch_size"), [("mlp", None), ("mlp", 4), ("cnn", 4), ("transformer", 4)])
def test_directional_equals_the_contracted_gradients(name: str, microbatch_size: int | None) -> None:
    loss, params, batch, direction = problem(name)
    changes = jax.jit(directional, static_argnums=(0, 4))(loss, params, batch, direction, microbatch_size)
    grads = jax.jit(per_example_grads, static_argnums=(0, 3))(loss, params, batch, microbatch_size)
    rows, v = flat(grads), flat(direction, 0)
    assert changes.dtype == jnp.float32
    # Relative to what the products are summed from: an example may be nearly orthogonal to the direction.
    scale = np.linalg.norm(rows, axis=1) * np.linalg.norm(v)
    np.testing.assert_allclose(changes / scale, rows @ v / scale, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LOSSES)
def test_directional_equals_central_differences(name: str) -> None:
    loss, params, batch, direction = problem(name, np.float64)
    run = jax.jit(loss)
    ahead, behind = (run(jax.tree.map(lambda p, v, e=e: p + e * v, params, direction), batch) for e in (1e-5, -1e-5))
    # The error is of third order in 1e-5, and rounding is 1e-16 / 1e-5.
    np.testing.assert_allclose(directional(loss, params, batch, direction, 4), (ahead - behind) / 2e-5, rtol=1e-7, atol=1e-9)


def test_padding_does_not_count_in_a_group() -> None:
    """A loss's own weights enter a group's mean as they enter `paired_value_and_grad`'s; a group of padding has gradient 0."""
    loss = hamu_jax.objectives.cross_entropy(lambda kernel, batch: batch["x"] @ kernel)
    rng = np.random.default_rng(3)
    kernel, x = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    label, groups = jnp.asarray([1, -1, 3, 0, -1, 2]), jnp.asarray([0, 0, 0, 1, 2, 1])
    run = jax.jit(functools.partial(group_grads, loss, num_groups=3, microbatch_size=4))
    means = run(kernel, {"x": x, "label": label}, groups)
    for group, rows in enumerate((np.array([0, 2]), np.array([3, 5]))):
        part = {"x": x[rows], "label": label[rows]}
        expected = jax.grad(lambda p, part=part: jnp.mean(loss(p, part)))(kernel)
        np.testing.assert_allclose(means[group], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(means[2], jnp.zeros((3, 4)))


def test_examples_outside_all_groups_are_left_out() -> None:
    groups = jnp.asarray([0, -1, 1, 5, 1, -2])
    means = group_grads(linear, jnp.float32(1.0), jnp.arange(6.0), groups, num_groups=2, microbatch_size=4)
    np.testing.assert_allclose(means, [0.0, 3.0])


def test_half_precision_is_summed_in_single() -> None:
    """512 gradients of 1/512 after one of 1: in bfloat16 the small ones would be lost."""
    x = jnp.full(513, 1 / 512, jnp.bfloat16).at[0].set(1.0)
    params = jnp.ones((), jnp.bfloat16)
    summed = weighted_grad(linear, params, x, jnp.ones(513), 1)  # within a microbatch the model decides
    assert summed.dtype == jnp.bfloat16
    assert float(summed) == 2.0
    mean = group_grads(linear, params, x, jnp.zeros(513, int), num_groups=1, microbatch_size=4)
    np.testing.assert_allclose(np.asarray(mean, np.float32), 2 / 513, rtol=2.0**-8)  # rounded once
    for function, dtype in ((gram, jnp.float32), (per_example_norms, jnp.float32), (per_example_grads, jnp.bfloat16)):
        assert jax.eval_shape(functools.partial(function, linear), params, x).dtype == dtype


def test_single_precision_params_under_x64() -> None:
    _, params, batch, direction = problem("mlp")
    with jax.enable_x64(True):
        results = (
            jax.eval_shape(lambda: per_example_grads(mlp, params, batch, 4)),
            jax.eval_shape(lambda: directional(mlp, params, batch, direction, 4)),
            jax.eval_shape(lambda: weighted_grad(mlp, params, batch, jnp.asarray(WEIGHTS), 4)),
            jax.eval_shape(lambda: per_example_norms(mlp, params, batch, microbatch_size=4)),
            jax.eval_shape(lambda: gram(mlp, params, batch, microbatch_size=4)),
            jax.eval_shape(lambda: gram(mlp, params, batch, groups=jnp.asarray(GROUPS), num_groups=5, microbatch_size=4)),
        )
    assert {x.dtype for x in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}


def test_a_zero_direction_and_zero_weights() -> None:
    _, params, batch, direction = problem("mlp")
    nothing = jax.tree.map(jnp.zeros_like, direction)
    np.testing.assert_array_equal(directional(mlp, params, batch, nothing, 4), np.zeros(SIZE))
    chex.assert_trees_all_equal(weighted_grad(mlp, params, batch, jnp.zeros(SIZE), 4), nothing)


FUNCTIONS = {
    "per_example_grads": lambda loss, p, b, size=None: per_example_grads(loss, p, b, size),
    "directional": lambda loss, p, b, size=None: directional(loss, p, b, p, size),
    "weighted_grad": lambda loss, p, b, size=None: weighted_grad(loss, p, b, jnp.ones(SIZE), size),
    "per_example_norms": lambda loss, p, b, size=None: per_example_norms(loss, p, b, microbatch_size=size),
    "gram": lambda loss, p, b, size=None: gram(loss, p, b, microbatch_size=size),
    "group_grads": lambda loss, p, b, size=None: group_grads(
        loss, p, b, jnp.zeros(SIZE, int), num_groups=1, microbatch_size=size
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
class TestBadInput:
    @pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
    def test_microbatch_size(self, name: str, size: Any) -> None:
        _, params, batch, _ = problem("mlp")
        with pytest.raises(ValueError, match=rf"microbatch_size: got {size!r}, expected a whole number of at least 1"):
            FUNCTIONS[name](mlp, params, batch, size)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda b: jax.tree.map(lambda x: x[:0], b), "batch: got 0 examples, expected at least 1"),
            (lambda _: {}, "batch: got a pytree without arrays"),
            (lambda b: {**b, "y": b["y"][:7]}, "batch: got 7 examples at 'y', expected 10 as at 'x'"),
            (lambda b: {**b, "y": b["y"][0]}, "batch: got a 0-d leaf at 'y', expected a leading example axis"),
        ],
        ids=["empty", "no arrays", "lengths", "0-d"],
    )
    def test_batch(self, name: str, change: Any, message: str) -> None:
        _, params, batch, _ = problem("mlp")
        with pytest.raises(ValueError, match=re.escape(message)):
            FUNCTIONS[name](mlp, params, change(batch))

    @pytest.mark.parametrize("size", [None, 4])
    def test_loss(self, name: str, size: int | None) -> None:
        _, params, batch, _ = problem("mlp")
        with pytest.raises(ValueError, match=r"loss: got a result of shape \(\) for .* one loss per example"):
            FUNCTIONS[name](lambda p, b: jnp.mean(mlp(p, b)), params, batch, size)


def test_a_direction_that_differs_from_the_parameters() -> None:
    _, params, batch, direction = problem("mlp")
    with pytest.raises(ValueError, match=r"direction: got shape \(4, 3\) at 'hidden', expected \(3, 4\)"):
        directional(mlp, params, batch, {**direction, "hidden": direction["hidden"].T})
    with pytest.raises(ValueError, match=r"direction: .*'out'"):
        directional(mlp, params, batch, {"hidden": direction["hidden"]})


def test_weights_and_groups_of_the_wrong_length() -> None:
    _, params, batch, _ = problem("mlp")
    with pytest.raises(ValueError, match=r"weights: got shape \(9,\), expected \(10,\)"):
        weighted_grad(mlp, params, batch, jnp.ones(9))
    with pytest.raises(ValueError, match=r"groups: got shape \(10, 1\), expected \(10,\)"):
        gram(mlp, params, batch, groups=jnp.zeros((10, 1), int), num_groups=2)


def test_groups_without_their_number() -> None:
    _, params, batch, _ = problem("mlp")
    with pytest.raises(ValueError, match=r"num_groups: got None, expected how many groups there are"):
        gram(mlp, params, batch, groups=jnp.asarray(GROUPS))
    with pytest.raises(ValueError, match=r"num_groups: got 0, expected a whole number of at least 1"):
        gram(mlp, params, batch, groups=jnp.asarray(GROUPS), num_groups=0)


def temporaries(function: Any, size: int) -> int:
    """The bytes that a compiled function needs beside its arguments and its result, for `size` examples of 64 features."""
    params = {"hidden": jnp.ones((64, 64)), "out": jnp.ones(64)}
    batch = {"x": jnp.ones((size, 64)), "y": jnp.ones(size)}
    return jax.jit(function).lower(params, batch).compile().memory_analysis().temp_size_in_bytes


PROFILES = {
    "directional": lambda p, b: directional(mlp, p, b, p, 64),
    "weighted_grad": lambda p, b: weighted_grad(mlp, p, b, b["y"], 64),
    "per_example_norms": lambda p, b: per_example_norms(mlp, p, b, microbatch_size=64),
    "group_grads": lambda p, b: group_grads(mlp, p, b, jnp.zeros(len(b["y"]), int), num_groups=2, microbatch_size=64),
}


@pytest.mark.parametrize("name", PROFILES)
def test_memory_is_that_of_a_microbatch(name: str) -> None:
    """From 256 to 4,096 examples temporaries grow by two copies of the batch at most (optax rearranges it), not by gradients.

    An example has 65 numbers, its gradient 4,160.
    """
    few, many = (temporaries(PROFILES[name], size) for size in (256, 4096))
    assert many - few <= (2 * 65 + 8) * 4 * (4096 - 256)
