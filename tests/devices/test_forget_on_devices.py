"""`forget` on eight virtual devices: the trust region, the evaluations and the best point are those of one device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax import Groups, sharding

RNG = np.random.default_rng(5)


def rows(axis: int, size: int) -> dict[str, np.ndarray]:
    """Examples that look at one coordinate each, with some noise in the others."""
    x = 0.1 * RNG.normal(size=(size, 4)).astype(np.float32)
    x[:, axis] = 1.0
    return {"x": x, "owner": np.full(size, axis - 1, np.int32)}


def loss(params: Any, batch: Any) -> Any:
    return 0.5 * (batch["x"] @ params["w"] + params["b"]) ** 2


RETAIN, HELD, FORGET = rows(0, 45), rows(0, 11), rows(1, 13)
BOTH = jax.tree.map(lambda *x: np.concatenate(x), FORGET, rows(2, 6))
START = {"w": jnp.array([0.3, 0.2, 0.1, 0.0]), "b": jnp.zeros(1)}


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("data=8", {"forget": FORGET, "level": 2.0}),
        ("data=2,objective=2,fsdp=2", {"forget": FORGET, "level": 2.0}),
        ("data=8", {"forget": BOTH, "level": (0.5, 1.0), "requests": Groups(lambda batch: batch["owner"], 2)}),
    ],
)
def test_many_devices_are_one(layout: str, options: dict[str, Any]) -> None:
    shared = {"held_out": HELD, "batch_size": (16, 19), "steps": 15, "progress": False, **options}
    alone = hamu_jax.forget(loss, START, RETAIN, **shared)
    together = hamu_jax.forget(loss, START, RETAIN, mesh=sharding.parse_mesh(layout), **shared)
    assert together.status == alone.status
    for name in START:
        np.testing.assert_allclose(together.params[name], alone.params[name], rtol=2e-4, atol=2e-5)
    for column in ("step_scale", "step_accepted", "trust_error"):
        got, expected = (result.history.column(column)[:15] for result in (together, alone))
        np.testing.assert_allclose(got, expected, rtol=5e-3, atol=5e-4, err_msg=column)
