"""Ordinary training, for the models that are to be unlearned and for those retrained without the forget set."""

import functools
from typing import Any

import grain
import jax
import jax.numpy as jnp
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

    rows = grain.MapDataset.range(len(data["label"])).shuffle(seed=seed).repeat().batch(batch_size)
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    state = optimizer.init(params)
    for number in track(range(steps), description=f"training the {name} model", console=Console(stderr=True)):
        params, state = step(params, state, {key: value[rows[number]] for key, value in data.items()})
    return params
