"""Ordinary training, for the models that are to be unlearned and for those retrained without the forget set."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from rich.console import Console
from rich.progress import track

from hamu_jax import objectives

StatefulLoss: TypeAlias = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, Any]]


class Carry(NamedTuple):
    """What training carries from step to step.

    Attributes:
      params: what is trained.
      rest: what changes beside it, such as the statistics of batch normalisation.
      state: the optimizer's.
      best: parameters and rest at the best evaluation so far, and its score.
    """

    params: Any
    rest: Any
    state: Any
    best: tuple[Any, Any, jax.Array]


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

    def mean(params: Any, rest: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        del key
        return jnp.mean(loss(params, batch)), rest

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    return fit(mean, params, (), data, optimizer, steps=steps, batch_size=batch_size, seed=seed, name=name)[0]


def fit(
    loss: StatefulLoss,
    params: Any,
    rest: Any,
    data: Any,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    name: str,
    score: Callable[[Any, Any], float] | None = None,
    every: int = 0,
    directory: str | os.PathLike[str] | None = None,
) -> tuple[Any, Any]:
    """Minimises a loss over batches of `data`, in another order in each epoch.

    Args:
      loss: `loss(params, rest, batch, key) -> (mean loss, rest)`; the key is for augmentation and dropout.
      params: initial parameters; copied.
      rest: what changes beside them.
      data: a mapping to numpy arrays with a leading example axis.
      optimizer: any of optax.
      steps: how many.
      batch_size: examples in each.
      seed: of order and keys.
      name: of the model, for the progress bar.
      score: `score(params, rest)`, large for good ones, taken every so many steps and at the end; the best is returned.
        None: the last is returned.
      every: steps between scores, and between checkpoints.
      directory: of checkpoints. If it holds one of this training, that goes on from there to the same result.

    Returns:
      Parameters and rest.

    Raises:
      RuntimeError: if they are not finite: nobody shall store a model that overflowed.
    """
    carry = _first(params, rest, optimizer)
    manager = None if directory is None else _manager(directory)
    begun = 0 if manager is None else manager.latest_step() or 0
    if manager is not None and begun:
        carry = manager.restore(begun, args=ocp.args.StandardRestore(carry))
    step, rows = _step(loss, optimizer), _rows(len(data["label"]), steps * batch_size, seed)
    for number in track(range(begun, steps), description=f"training the {name} model", console=Console(stderr=True)):
        chosen = rows[number * batch_size :][:batch_size]
        batch, key = {key: value[chosen] for key, value in data.items()}, jax.random.key(seed)
        moved = step(carry[:3], batch, key, number)
        carry = Carry(*moved, carry.best)
        if every and ((number + 1) % every == 0 or number + 1 == steps):
            carry = carry if score is None else _judged(carry, score(carry.params, carry.rest))
            if manager is not None:
                manager.save(number + 1, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, carry)))
    if manager is not None:
        manager.close()
    trained = carry.best[:2] if score is not None else (carry.params, carry.rest)
    if not _finite(trained):
        where = "" if directory is None else f", and delete {directory}"
        raise RuntimeError(f"training the {name} model: got parameters that are not finite: take a lower learning rate{where}")
    return trained


def _first(params: Any, rest: Any, optimizer: optax.GradientTransformation) -> Carry:
    """The carry before the first step."""
    params, rest = jax.tree.map(lambda x: jnp.array(x, copy=True), (params, rest))
    best = jax.tree.map(lambda x: jnp.array(x, copy=True), (params, rest))
    return Carry(params, rest, optimizer.init(params), (*best, jnp.float32(-jnp.inf)))


def _step(loss: StatefulLoss, optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, Any, Any]]:
    """One jitted step of everything but the best model."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry: tuple[Any, Any, Any], batch: Any, key: jax.Array, number: int) -> tuple[Any, Any, Any]:
        params, rest, state = carry
        step_key = jax.random.fold_in(key, number)
        grads, rest = jax.grad(loss, has_aux=True)(params, rest, batch, step_key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    return step


@jax.jit
def _finite(arrays: Any) -> jax.Array:
    """Whether all numbers of several arrays are finite."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays)]))


def _rows(size: int, wanted: int, seed: int) -> np.ndarray:
    """Row numbers of all batches."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(size) for _ in range(-(-wanted // size))])


def _judged(carry: Carry, score: float) -> Carry:
    """The carry with the present model as the best, if its score is higher."""
    if score <= carry.best[2]:
        return carry
    return carry._replace(best=(*jax.tree.map(jnp.copy, (carry.params, carry.rest)), jnp.float32(score)))


def _manager(directory: str | os.PathLike[str]) -> ocp.CheckpointManager:
    """An open directory of checkpoints."""
    return ocp.CheckpointManager(Path(directory).absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True))
