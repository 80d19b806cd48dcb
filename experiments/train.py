"""Ordinary training, for the models that are to be unlearned and for those retrained without the forget set."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track

from hamu_jax import objectives


def train(
    loss: objectives.CrossEntropy,
    params: Any,
    data: Any,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    name: str,
) -> Any:
    """Minimises the mean loss over `data` with Adam and a cosine schedule; returns the trained parameters."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        grads = jax.grad(lambda p: jnp.mean(loss(p, batch)))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    size = len(data["label"])
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(size) for _ in range(-(-steps * batch_size // size))])
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    state = optimizer.init(params)
    for number in track(range(steps), description=f"training the {name} model", console=Console(stderr=True)):
        chosen = rows[number * batch_size :][:batch_size]
        params, state = step(params, state, {key: value[chosen] for key, value in data.items()})
    return params
