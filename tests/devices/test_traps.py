"""What goes wrong silently on many devices, if it is let: each was measured before it was mended."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from problems_on_devices import assert_equal, examples, loss, start

import hamu_jax
from hamu_jax import sharding

LINE = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
SPLIT = PartitionSpec("devices")


def linear(w: Any, batch: Any) -> Any:
    """A loss whose gradient is the mean of the inputs."""
    return batch @ w


def inputs(seed: int) -> jax.Array:
    """Two examples per device."""
    return jax.random.normal(jax.random.key(seed), (16, 3))


def on_devices(body: Any, *, check_vma: bool) -> Any:
    """`body(w, retain, forget)` under `shard_map`."""
    specs = {"in_specs": (PartitionSpec(), SPLIT, SPLIT), "out_specs": PartitionSpec()}
    return jax.jit(jax.shard_map(body, mesh=LINE, **specs, check_vma=check_vma))(jnp.zeros(3), inputs(0), inputs(1))


def own_gradients(w: Any, retain: Any, forget: Any, *, axis_name: str | None) -> Any:
    """A step whose user differentiates by himself and leaves the averaging to the transform."""
    tx = hamu_jax.transform(0.3, blocks="global", axis_name=axis_name)
    grads = [jax.grad(lambda w, batch=batch: jnp.mean(linear(w, batch)))(w) for batch in (retain, forget)]
    updates, state = tx.update(grads[0], tx.init(w), forget_grads=grads[1])
    return updates, hamu_jax.get_hardness(state).total_kappa


def test_gradients_that_arrive_summed_are_refused() -> None:
    """With `check_vma=True` they would have been eight times too long."""
    with pytest.raises(ValueError, match=r"updates.*same on every device of axis 'devices'.*paired_value_and_grad"):
        on_devices(lambda *args: own_gradients(*args, axis_name="devices"), check_vma=True)
    summed = on_devices(lambda w, r, f: jax.grad(lambda w: jnp.mean(linear(w, r) + 0 * jnp.sum(f)))(w), check_vma=True)
    np.testing.assert_allclose(summed, 8 * jnp.mean(inputs(0), axis=0), rtol=1e-5)


def test_paired_gradients_are_right_under_either() -> None:
    expected = hamu_jax.paired_value_and_grad(linear)(jnp.zeros(3), inputs(0), inputs(1))
    paired = hamu_jax.paired_value_and_grad(linear, axis_name="devices")
    for check_vma in (True, False):
        assert_equal(on_devices(paired, check_vma=check_vma), expected, 1e-6)


def test_averaging_by_the_transform() -> None:
    """kappa is that of the averaged gradients, not the average of the devices' own."""
    got, kappa = on_devices(lambda *args: own_gradients(*args, axis_name="devices"), check_vma=False)
    expected, whole = own_gradients(jnp.zeros(3), inputs(0), inputs(1), axis_name=None)
    assert_equal((got, kappa), (expected, whole), 1e-6)
    alone = [own_gradients(jnp.zeros(3), *(inputs(i)[2 * d :][:2] for i in (0, 1)), axis_name=None)[1] for d in range(8)]
    assert abs(float(np.mean(alone)) - float(whole)) > 0.1 * abs(float(whole)), "this mean is another number"


def test_an_axis_that_is_not_there() -> None:
    tx = hamu_jax.transform(0.3, axis_name="nowhere")
    with pytest.raises(ValueError, match=r"axis_name: got 'nowhere', expected an axis of the jax.pmap or jax.shard_map"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), forget_grads=jnp.ones(3))
    with pytest.raises(ValueError, match=r"axis_name: got 'nowhere'"):
        hamu_jax.paired_value_and_grad(linear, axis_name="nowhere")(jnp.zeros(3), inputs(0), inputs(1))
    with pytest.raises(ValueError, match=r"axis_name: got 3, expected None, the name of an axis"):
        hamu_jax.transform(0.3, axis_name=3)  # pyright: ignore[reportArgumentType]


def test_meshes_are_auto() -> None:
    """`jax.make_mesh` alone makes Explicit axes, on which an array that was not placed can't meet one that was."""
    assert set(sharding.make_mesh().axis_types) == {AxisType.Auto}
    assert set(sharding.make_mesh(devices=jax.devices()[:2]).axis_types) == {AxisType.Auto}
    placed = sharding.shard_batch(np.ones((8, 3), np.float32), sharding.make_mesh()).batch
    assert float(jnp.sum(placed @ jnp.ones(3))) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=3", "mesh: got data=3, objective=1, fsdp=1 for 8 devices, expected data * objective * fsdp = 8"),
        ("fsdp=5", "mesh: got data=any, objective=1, fsdp=5 for 8 devices, expected data * objective * fsdp = 8"),
        ("data=8,objective=2", "mesh: got data=8, objective=2, fsdp=1 for 8 devices"),
        ("objective=4", "objective: got 4, expected 1, or 2"),
        ("fsdp=0", "fsdp: got 0, expected a whole number of at least 1"),
        ("model=2", "mesh: got the axis 'model' in 'model=2', expected each of data, objective, fsdp at most once"),
        ("data=2,data=4", "mesh: got the axis 'data'"),
        ("data=two", "mesh: got data='two' in 'data=two', expected a whole number"),
    ],
)
def test_a_mesh_that_does_not_fit(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sharding.parse_mesh(text)


def test_a_mesh_of_someone_else() -> None:
    with pytest.raises(ValueError, match=r"mesh: got \('devices',\), expected a mesh from hamu_jax.sharding.make_mesh"):
        sharding.shard_params(jnp.ones(8), LINE)


def test_where_parameters_lie() -> None:
    mesh = sharding.parse_mesh("data=2,fsdp=4")
    params = {"kernel": jnp.ones((3, 8, 4)), "bias": jnp.ones(6), "scalar": jnp.ones(()), "empty": jnp.ones((0, 4))}
    specs = jax.tree.map(lambda s: s.spec, sharding.param_shardings(params, mesh))
    expected = {"kernel": (None, "fsdp"), "bias": (), "scalar": (), "empty": (None, "fsdp")}
    assert specs == {name: PartitionSpec(*spec) for name, spec in expected.items()}
    mine = jax.device_put(params["kernel"], NamedSharding(mesh, PartitionSpec(None, None, "fsdp")))
    assert sharding.param_shardings(mine, mesh) == mine.sharding, "a placement on this mesh is kept"


@pytest.mark.slow
def test_per_example_gradients_of_convolutions() -> None:
    """XLA's partitioner has them wrong by as much as they are long; in the mesh's context each device does its own."""
    mesh, params, batch = sharding.make_mesh(), start("cnn"), examples("cnn", 2, 16)
    placed = sharding.shard_batch(batch, mesh).batch
    expected = hamu_jax.per_example_grads(loss("cnn"), params, batch)
    grads = jax.jit(lambda p, b: hamu_jax.per_example_grads(loss("cnn"), p, b))
    gram = jax.jit(lambda p, b: hamu_jax.gram(loss("cnn"), p, b))
    with jax.set_mesh(mesh):
        assert_equal(grads(params, placed), expected, 1e-5)
        assert_equal(gram(params, placed), hamu_jax.gram(loss("cnn"), params, batch), 1e-5)
        few = examples("cnn", 3, 11)  # does not divide: every device takes all
        assert_equal(grads(params, few), hamu_jax.per_example_grads(loss("cnn"), params, few), 1e-5)
