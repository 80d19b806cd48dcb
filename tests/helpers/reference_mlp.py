"""The network of the PyTorch reference's runs: an MLP 20-32-16-5, its tensors flattened one after the other."""

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"0.weight": (32, 20), "0.bias": (32,), "2.weight": (16, 32), "2.bias": (16,), "4.weight": (5, 16), "4.bias": (5,)}
TENSORS = tuple(SHAPES)


def unflatten(weights: jax.Array) -> dict[str, jax.Array]:
    """The tensors from one array `[1285]`."""
    ends = np.cumsum([np.prod(shape) for shape in SHAPES.values()])
    return {name: part.reshape(SHAPES[name]) for name, part in zip(TENSORS, jnp.split(weights, ends[:-1]), strict=True)}


def flatten(params: dict[str, jax.Array]) -> jax.Array:
    """The inverse of `unflatten`."""
    return jnp.concatenate([params[name].ravel() for name in TENSORS])


def mlp(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    """Logits; weights are `[out, in]`."""
    x = batch["x"]
    for layer in ("0", "2", "4"):
        x = x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"][None]
        x = x if layer == "4" else jax.nn.relu(x)
    return x
