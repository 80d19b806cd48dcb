"""Models with random data of the shapes that they are for: what is measured does not depend on the numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.models.cnn import CNN
from experiments.models.mlp import MLP
from experiments.models.transformer import Transformer
from hamu_jax import objectives


class SmallModel(NamedTuple):
    """`loss(params, batch) -> [batch]`, parameters, and a batch."""

    loss: Callable[[Any, Any], Any]
    params: Any
    batch: dict[str, Any]


def mlp(size: int, *, features: int = 64, hidden: int = 128) -> SmallModel:
    """A perceptron on `size` vectors."""
    rng = np.random.default_rng(0)
    graph, params = nnx.split(MLP(10, features=features, hidden=hidden, rngs=nnx.Rngs(0)))
    batch = {"x": rng.normal(size=(size, features)).astype(np.float32), "label": rng.integers(0, 10, size)}
    return SmallModel(objectives.cross_entropy(lambda p, b: nnx.merge(graph, p)(b["x"])), params, _device(batch))


def cnn(size: int) -> SmallModel:
    """The quickstart's network on `size` images."""
    rng = np.random.default_rng(0)
    graph, params = nnx.split(CNN(10, rngs=nnx.Rngs(0)))
    batch = {"x": rng.normal(size=(size, 8, 8, 1)).astype(np.float32), "label": rng.integers(0, 10, size)}
    return SmallModel(objectives.cross_entropy(lambda p, b: nnx.merge(graph, p)(b["x"])), params, _device(batch))


def transformer(size: int, *, length: int = 32) -> SmallModel:
    """A transformer of 120,000 parameters on `size` sequences: the mean entropy of the next token."""
    rng = np.random.default_rng(0)
    model = Transformer(256, length, width=64, heads=4, layers=2, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    batch = {"tokens": rng.integers(0, 256, (size, length + 1))}

    def loss(params: Any, batch: Any) -> Any:
        logits = nnx.merge(graph, params)(batch["tokens"][:, :-1])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, 1:])
        return jnp.mean(losses, axis=1)

    return SmallModel(loss, params, _device(batch))


SMALL_MODELS: dict[str, Callable[[int], SmallModel]] = {"MLP": mlp, "CNN": cnn, "transformer": transformer}


def _device(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch on the device, integers as int32."""
    return {key: jnp.asarray(x, jnp.int32 if np.issubdtype(x.dtype, np.integer) else x.dtype) for key, x in batch.items()}
