"""Two models, uneven batches of both sets, the methods, and ten steps of each on one device: what every layout must give.

In float64: devices sum in another order, and ten steps of the projected solve make 2e-6 of float32 rounding.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hamu_jax

STEPS = 10
RETAIN, FORGET, OWNERS = 13, 11, 3  # examples; neither divides among eight devices
METHODS: dict[str, dict[str, Any]] = {
    "q-leaf": {},
    "q-global": {"blocks": "global"},
    "u-leaf": {"variant": "u", "clip_norm": 1.0},
    "u-global": {"variant": "u", "blocks": "global"},
    "projected-leaf": {"forget_axis": 0, "num_requests": OWNERS},
    "projected-global": {"forget_axis": 0, "num_requests": OWNERS, "blocks": "global"},
}


def groups(method: str) -> hamu_jax.Groups | None:
    """The requests of a method that has any."""
    return hamu_jax.Groups(lambda batch: batch["owner"], OWNERS) if "num_requests" in METHODS[method] else None


def transform(method: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a method."""
    return hamu_jax.hamu(0.05, 0.3, distribution="relative", **METHODS[method], **options)


def cnn(params: Any, x: jax.Array) -> jax.Array:
    """A residual network with affine maps in the place of frozen batch norms: `[batch, 8, 8, 3]` to logits."""

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x = jax.nn.relu(convolve(x, params["stem"]))
    for block in params["blocks"]:
        shift = block["shift"].reshape(1, 1, 1, -1)
        x = jax.nn.relu(x + convolve(x, block["kernel"]) * block["scale"].reshape(1, 1, 1, -1) + shift)
    return jnp.mean(x, axis=(1, 2)) @ params["head"]


def transformer(params: Any, x: jax.Array) -> jax.Array:
    """One layer of attention and one of features: `[batch, time, width]` to logits."""
    query, key, value = (jnp.einsum("btd,dhk->bthk", x, params[name]) for name in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", query, key) / 2.0)
    x = x + jnp.einsum("bhts,bshk,hkd->btd", weights, value, params["out"])
    x = x + jax.nn.gelu(x @ params["up"]) @ params["down"]
    return jnp.mean(x, axis=1) @ params["head"]


SHAPES: dict[str, Any] = {
    "cnn": {
        "stem": (3, 3, 3, 8),
        "blocks": [{"kernel": (3, 3, 8, 8), "scale": (8,), "shift": (8,)}] * 2,
        "head": (8, 5),
    },
    "transformer": {
        **dict.fromkeys(("query", "key", "value"), (8, 2, 4)),
        "out": (2, 4, 8),
        "up": (8, 16),
        "down": (16, 8),
        "head": (8, 5),
    },
}
INPUTS = {"cnn": (8, 8, 3), "transformer": (6, 8)}
MODELS = {"cnn": cnn, "transformer": transformer}


@functools.cache
def loss(model: str) -> Any:
    """Cross-entropy of a model; a label of -1 is padding."""
    return hamu_jax.objectives.cross_entropy(lambda params, batch: MODELS[model](params, batch["x"]))


def start(model: str) -> Any:
    """Random parameters, the same at each call."""
    rng = np.random.default_rng(0)
    shapes = SHAPES[model]
    return jax.tree.map(lambda shape: rng.normal(size=shape) * 0.3, shapes, is_leaf=lambda node: isinstance(node, tuple))


def examples(model: str, seed: int, size: int) -> dict[str, np.ndarray]:
    """Examples with an owner each; one of them is padding."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, size).astype(np.int32)
    label[2] = -1
    x = rng.normal(size=(size, *INPUTS[model]))
    return {"x": x, "label": label, "owner": (np.arange(size) % OWNERS).astype(np.int32)}


def sets(model: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The retain and the forget batch."""
    return examples(model, 1, RETAIN), examples(model, 2, FORGET)


def loop(step: Any, params: Any, state: Any) -> Any:
    """Ten steps, each waited for: several CPU devices that run ahead can wait for each other for ever."""
    for _ in range(STEPS):
        params, state = jax.block_until_ready(step(params, state))
    return jax.device_get(params)


@functools.cache
def gradients(model: str, many: bool) -> Any:
    """Both gradients on one device, jitted."""
    method = "projected-leaf" if many else "q-leaf"
    return jax.jit(hamu_jax.paired_value_and_grad(loss(model), forget_groups=groups(method)))


@functools.cache
def expected(model: str, method: str) -> Any:
    """The parameters after ten steps on one device."""
    optimizer = transform(method)
    update, paired = jax.jit(optimizer.update), gradients(model, groups(method) is not None)

    def step(params: Any, state: Any) -> Any:
        _, grads = paired(params, *sets(model))
        updates, state = update(grads.retain, state, params, forget_grads=grads.forget)
        return optax.apply_updates(params, updates), state

    return loop(step, start(model), optimizer.init(start(model)))


def assert_equal(got: Any, wanted: Any, tolerance: float = 1e-9) -> None:
    """Every tensor, relative to its largest entry."""
    for x, y in zip(jax.tree.leaves(jax.device_get(got)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, float(np.max(np.abs(y)))))
