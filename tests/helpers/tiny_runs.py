"""Tiny runs of the driver that many tests share, and what it takes to interrupt one."""

import functools
import os
import resource
import signal
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hamu_jax


def adamw() -> optax.GradientTransformation:
    """AdamW, whose bias correction mixes a float with an integer count."""
    plain = optax.adamw(0.02)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return plain.update(updates, state, params)

    return optax.GradientTransformation(plain.init, update)


SGD = hamu_jax.hamu(0.05, 0.5)
ADAMW = optax.chain(hamu_jax.transform(0.5), adamw())


def loss(params: Any, batch: Any) -> Any:
    """The squared error of a linear regression."""
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def linear(params: Any, batch: Any) -> Any:
    """A loss whose gradient is the mean of the batch, whatever the parameters."""
    return batch @ params["w"]


def numbers_of(batch: Any) -> Any:
    """Which request, or group, each example belongs to."""
    return batch["group"]


def examples(seed: int, size: int, noise: float = 1.0) -> dict[str, np.ndarray]:
    """Examples of a linear regression."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + noise * rng.normal(size=size)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


RETAIN, FORGET = examples(1, 400), examples(2, 200)


def start() -> dict[str, jax.Array]:
    """Parameters not far from a minimum."""
    return {"b": jnp.float32(0.1), "w": jnp.array([0.9, -1.8, 0.3])}


def run(
    optimizer: Any = SGD, *, retain: Any = RETAIN, forget: Any = FORGET, steps: int = 12, **options: Any
) -> hamu_jax.Unlearned:
    """A run on the shared problem."""
    options = {"batch_size": (8, 4), "progress": False, **options}
    return hamu_jax.unlearn(
        options.pop("loss", loss), options.pop("params", start()), retain, forget, optimizer, steps=steps, **options
    )


@functools.cache
def plain(optimizer: Any = SGD, steps: int = 12) -> hamu_jax.Unlearned:
    """A run without options, made once: what others are compared with."""
    return run(optimizer, steps=steps)


def bits(tree: Any) -> list[tuple[str, bytes]]:
    """The bytes of every leaf."""
    return [(str(np.asarray(leaf).dtype), np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def assert_same(run: hamu_jax.Unlearned, expected: hamu_jax.Unlearned) -> None:
    """Two runs ended with the same bits, by the same way."""
    assert bits(run.params) == bits(expected.params)
    assert bits(run.state) == bits(expected.state)
    assert jax.tree.structure(run.state) == jax.tree.structure(expected.state)
    assert run.history.rows == expected.history.rows
    assert (run.steps, run.status, run.reason) == (expected.steps, expected.status, expected.reason)


class Interrupted(np.ndarray):
    """Examples whose reading fails at batch `at`, as a disk or a power supply does."""

    at: int
    how: Any

    def __getitem__(self, index: Any) -> np.ndarray:
        if self.at == 0:
            self.how()
        self.at -= 1
        return np.asarray(self)[index]


def interrupted(data: dict[str, np.ndarray], at: int, how: Any) -> dict[str, np.ndarray]:
    """`data`, which calls `how` when batch number `at` is read."""
    view = data["y"].view(Interrupted)
    view.at, view.how = at, how
    return {**data, "y": view}


def kill() -> None:
    """The end of this process, at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    """From now on no file can be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def kill_while_saving(directory: str, step: int) -> None:
    """Kills this process as soon as a checkpoint is begun."""
    while not any(name.startswith(f"{step}.") for name in os.listdir(directory)):
        pass
    kill()


if __name__ == "__main__":
    where, what, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if what == "saving":
        os.makedirs(where, exist_ok=True)
        threading.Thread(target=kill_while_saving, args=(where, at), daemon=True).start()
        data = FORGET
    else:
        data = interrupted(FORGET, at, {"reading": kill, "full": fill_the_disk}[what])
    run(ADAMW, forget=data, checkpoints=hamu_jax.Checkpoints(where, every=4))
