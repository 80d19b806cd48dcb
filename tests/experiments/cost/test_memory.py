"""The memory that a step needs, from the program compiled for the shapes of a model."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.cost import memory
from experiments.cost.config import Memory
from experiments.models import llama

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")
SMALL = Memory(model="tiny", devices=(1,), weights=("float32",), batch_size=2, length=8)


def test_products_are_counted_as_often_as_a_loop_runs() -> None:
    def layers(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.scan(jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None)), x, weights)[0])

    x, weights = jnp.ones((2, 4)), jnp.ones((5, 4, 4))
    once = 5 * 2 * 2 * 4 * 4
    assert memory.products(jax.make_jaxpr(layers)(x, weights).jaxpr) == once
    # Forward, once more, and a product for either gradient.
    assert memory.products(jax.make_jaxpr(jax.grad(layers, (0, 1)))(x, weights).jaxpr) == 4 * once


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both losses' gradients are held at once; an adapter's are small."""
    monkeypatch.setattr(sys, "argv", ["memory"])
    written = memory.measure_memory(dataclasses.replace(SMALL, out=tmp_path))
    record = json.loads(written.with_suffix(".json").read_text(encoding="utf-8"))
    rows = {(row["trained"], row["step"]): row for row in record["rows"]}
    assert len(rows) == 4
    size = 4 * sum(x.size for x in jax.tree.leaves(llama.abstract(memory.MODELS["tiny"])))
    for row in rows.values():
        assert row["arguments"] >= size
        assert row["all"] >= row["arguments"] + row["temporaries"] - size
    assert rows["full", "HAMU"]["temporaries"] >= 2 * size
    for trained in SMALL.trained:
        # HAMU has the matrix products of any step with two gradients.
        assert rows[trained, "HAMU"]["matmul_flops"] == pytest.approx(rows[trained, "GDiff"]["matmul_flops"], rel=0.01)
    assert written.read_text(encoding="utf-8").count("| lora | float32 | 1 |") == 2
