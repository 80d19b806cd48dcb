"""The driver, the evaluation and the assessment on a mesh: what one device gives, and checkpoints that change meshes."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from problems_on_devices import assert_equal
from tiny_runs import FORGET, RETAIN, SGD, assert_same, examples, loss, run, start

import hamu_jax
from hamu_jax import sharding

pytestmark = pytest.mark.slow
MESHES = ("data=8", "data=2,objective=2,fsdp=2")
UNEVEN: dict[str, Any] = {"batch_size": (11, 5), "measure_every": 1}


@pytest.fixture(scope="module")
def expected() -> hamu_jax.Unlearned:
    """Twelve steps on one device, with batches that do not divide."""
    return run(steps=12, **UNEVEN)


def assert_near(got: hamu_jax.Unlearned, wanted: hamu_jax.Unlearned) -> None:
    """The same parameters and the same history, but for the order of sums."""
    assert_equal(got.params, wanted.params, 2e-6)
    assert (got.steps, got.status) == (wanted.steps, wanted.status)
    for name in wanted.history.rows[0]:
        np.testing.assert_allclose(got.history.column(name), wanted.history.column(name), rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("text", MESHES)
def test_a_run_on_a_mesh(text: str, expected: hamu_jax.Unlearned) -> None:
    assert_near(run(steps=12, mesh=sharding.parse_mesh(text), **UNEVEN), expected)


def test_batches_from_a_loader(expected: hamu_jax.Unlearned) -> None:
    """Lists of batches, the last of which is shorter."""
    lists = [
        [jax.tree.map(lambda x, i=i: x[i : i + 7], data) for i in (0, 7, 14)] for data in (examples(1, 18), examples(2, 16))
    ]
    one, many = (run(retain=lists[0], forget=lists[1], steps=7, mesh=mesh) for mesh in (None, sharding.make_mesh()))
    assert_near(many, one)
    assert expected.steps == 12


def test_requests_a_trust_region_and_an_evaluation() -> None:
    """All that the driver has, at once: uneven requests, judged steps, measured promises, splits that do not divide."""
    owner = {"owner": (np.arange(15) % 3).astype(np.int32)}
    forget = {**examples(2, 15), **owner}
    options: dict[str, Any] = {
        "forget": forget,
        "batch_size": (11, 15),
        "forget_groups": hamu_jax.Groups(lambda batch: batch["owner"], 3),
        "trust_region": hamu_jax.TrustRegion(),
        "evaluation": hamu_jax.Evaluation({"retain": RETAIN, "forget": forget}, every=2, batch_size=33),
        "measure_every": 1,
    }
    optimizer = hamu_jax.hamu(0.05, 0.2, distribution="relative", blocks="global", forget_axis=0, num_requests=3)
    one = run(optimizer, steps=4, **options)
    assert_near(run(optimizer, steps=4, mesh=sharding.parse_mesh("data=4,fsdp=2"), **options), one)


def test_a_checkpoint_is_resumed_on_another_mesh(tmp_path: Path, expected: hamu_jax.Unlearned) -> None:
    """Written from parameters that are split, read by one device, and by another mesh."""
    checkpoints = hamu_jax.Checkpoints(tmp_path, every=4)
    run(steps=4, mesh=sharding.parse_mesh("data=4,fsdp=2"), checkpoints=checkpoints, **UNEVEN)
    run(steps=8, mesh=sharding.parse_mesh("data=2,objective=2,fsdp=2"), checkpoints=checkpoints, **UNEVEN)
    last = run(steps=12, checkpoints=checkpoints, **UNEVEN)
    assert_near(last, expected)


def test_on_one_mesh_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    mesh = sharding.parse_mesh("data=4,fsdp=2")
    whole = run(steps=8, mesh=mesh, **UNEVEN)
    run(steps=4, mesh=mesh, checkpoints=hamu_jax.Checkpoints(tmp_path), **UNEVEN)
    assert_same(run(steps=8, mesh=mesh, checkpoints=hamu_jax.Checkpoints(tmp_path), **UNEVEN), whole)


def test_a_step_is_traced_once() -> None:
    traces = []

    def counted(params: Any, batch: Any) -> Any:
        traces.append(1)
        return loss(params, batch)

    counted_run = run(loss=counted, steps=2, mesh=sharding.make_mesh())
    first = len(traces)
    run(loss=counted, steps=6, mesh=sharding.make_mesh())
    assert counted_run.steps == 2
    assert len(traces) == 2 * first, "as often for six steps as for two"


def test_an_assessment_on_a_mesh() -> None:
    one, many = (
        hamu_jax.assess(loss, start(), RETAIN, FORGET, 0.3, microbatch_size=50, mesh=m) for m in (None, sharding.make_mesh())
    )
    for field in dataclasses.fields(one):
        x, y = getattr(one, field.name), getattr(many, field.name)
        if isinstance(x, (str, tuple)) and not hasattr(x, "_fields"):
            assert x == y
        else:
            for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=field.name)


def test_an_evaluation_on_a_mesh() -> None:
    mesh = sharding.make_mesh()
    splits = {"retain": RETAIN, "few": examples(3, 5)}
    one = hamu_jax.evaluate(loss, start(), splits, batch_size=100)
    many = hamu_jax.evaluate(loss, sharding.shard_params(start(), mesh), splits, batch_size=100, mesh=mesh)
    assert one.keys() == many.keys()
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-6)


def test_a_mesh_of_someone_else_is_refused() -> None:
    with pytest.raises(ValueError, match="mesh: got"):
        run(SGD, steps=1, mesh=jax.make_mesh((8,), ("devices",)))
