"""Eight devices, however they share the work, give what one gives: ten steps, all variants, both kinds of block."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from problems_on_devices import FORGET, METHODS, MODELS, assert_equal, expected, groups, loop, loss, sets, start, transform

import hamu_jax
from hamu_jax import sharding

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]
every_model = pytest.mark.parametrize("model", MODELS)
every_method = pytest.mark.parametrize("method", METHODS)
MESHES = ("data=8", "data=4,objective=2", "data=2,fsdp=4", "fsdp=8", "data=2,objective=2,fsdp=2")
LINE = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))


def pieces(model: str, name: str) -> sharding.Padded:
    """One of the batches, cut for eight devices."""
    return sharding.split_batch(sets(model)[name == "forget"], 8)


@functools.cache
def of_each_device(model: str, many: bool) -> Any:
    """Both gradients of every device's own examples, `[8, ...]`, such that their means are those of the batches."""
    method = "projected-leaf" if many else "q-leaf"
    paired = hamu_jax.paired_value_and_grad(loss(model), forget_groups=groups(method), axis_name="devices")
    run = jax.pmap(
        lambda p, r, f: paired(p, r.batch, f.batch, retain_weights=r.weights, forget_weights=f.weights)[1],
        "devices",
        in_axes=(None, 0, 0),
    )
    return functools.partial(run)


@every_method
@every_model
def test_pmap(model: str, method: str) -> None:
    """Averaged twice, by `paired_value_and_grad` and by the transform, the gradients are the same."""
    optimizer = transform(method, axis_name="devices")
    update = jax.pmap(
        lambda grads, state, params: optimizer.update(grads.retain, state, params, forget_grads=grads.forget),
        "devices",
        in_axes=(0, None, None),
        out_axes=None,
    )
    paired = of_each_device(model, groups(method) is not None)

    def step(params: Any, state: Any) -> Any:
        grads = paired(params, pieces(model, "retain"), pieces(model, "forget"))
        updates, state = update(grads, state, params)
        return optax.apply_updates(params, updates), state

    assert_equal(loop(step, start(model), optimizer.init(start(model))), expected(model, method))


def test_pmap_step() -> None:
    """The entry point: one call a step, uneven batches, padding, and the state of one device."""
    model, method = "transformer", "projected-global"
    run = sharding.pmap_step(loss(model), transform(method), forget_groups=groups(method))

    def step(params: Any, state: Any) -> Any:
        return run(params, state, pieces(model, "retain"), pieces(model, "forget"))[:2]

    optimizer = transform(method)
    assert_equal(loop(step, start(model), optimizer.init(start(model))), expected(model, method))


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("method", ["q-leaf", "projected-global"])
def test_shard_map(method: str, check_vma: bool) -> None:
    """The same body, whether `shard_map` tracks what varies over devices or not."""
    model, optimizer = "transformer", transform(method)
    paired = hamu_jax.paired_value_and_grad(loss(model), forget_groups=groups(method), axis_name="devices")

    def body(params: Any, state: Any, retain: sharding.Padded, forget: sharding.Padded) -> Any:
        weights = {"retain_weights": retain.weights, "forget_weights": forget.weights}
        _, grads = paired(params, retain.batch, forget.batch, **weights)
        updates, state = optimizer.update(grads.retain, state, params, forget_grads=grads.forget)
        return optax.apply_updates(params, updates), state

    split = PartitionSpec("devices")
    specs = {"in_specs": (PartitionSpec(), PartitionSpec(), split, split), "out_specs": PartitionSpec()}
    run = jax.jit(jax.shard_map(body, mesh=LINE, **specs, check_vma=check_vma))
    flat = [
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pieces(model, name)) for name in ("retain", "forget")
    ]  # [devices * size, ...]
    result = loop(lambda params, state: run(params, state, *flat), start(model), optimizer.init(start(model)))
    assert_equal(result, expected(model, method))


@functools.cache
def on_mesh(model: str, text: str, many: bool) -> Any:
    """Mesh, shardings, and both gradients, jitted."""
    mesh = sharding.parse_mesh(text)
    shardings = sharding.param_shardings(start(model), mesh)
    requests = groups("projected-leaf") if many else None
    return mesh, shardings, jax.jit(sharding.paired_value_and_grad(loss(model), mesh, shardings, forget_groups=requests))


@functools.cache
def jitted_update(method: str) -> Any:
    """The optimizer's update and the new parameters."""
    optimizer = transform(method)

    def update(grads: Any, state: Any, params: Any) -> Any:
        updates, state = optimizer.update(grads.retain, state, params, forget_grads=grads.forget)
        return optax.apply_updates(params, updates), state

    return jax.jit(update)


@every_method
@pytest.mark.parametrize("text", MESHES)
@every_model
def test_jit_on_a_mesh(model: str, text: str, method: str) -> None:
    mesh, shardings, paired = on_mesh(model, text, groups(method) is not None)
    batches = [sharding.shard_batch(batch, mesh) for batch in sets(model)]
    weights = {"retain_weights": batches[0].weights, "forget_weights": batches[1].weights}

    def step(params: Any, state: Any) -> Any:
        _, grads = jax.block_until_ready(paired(params, batches[0].batch, batches[1].batch, **weights))
        assert jax.tree.map(lambda x: x.sharding, grads.retain) == shardings, "gradients lie where the parameters lie"
        return jitted_update(method)(grads, state, params)

    placed = sharding.shard_params(start(model), mesh)
    assert_equal(loop(step, placed, transform(method).init(placed)), expected(model, method))


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("method", ["q-leaf", "u-global", "projected-leaf"])
def test_each_device_may_hold_a_part_of_every_tensor(method: str, check_vma: bool) -> None:
    """`shard_axis_name`: inner products of parts are summed. A tensor that is whole everywhere is known by tracking only."""
    rng = jax.random.split(jax.random.key(0), 6)
    shapes = {"a": (16, 3), "b": (8,)} | ({"whole": (5,)} if check_vma else {})
    lead = (3,) if "projected" in method else ()
    retain = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(rng, shapes.items(), strict=False)}
    forget = {
        name: jax.random.normal(key, (*lead, *shape)) for key, (name, shape) in zip(rng[3:], shapes.items(), strict=False)
    }
    one, parts = transform(method), transform(method, shard_axis_name="devices")
    wanted, state = one.update(retain, one.init(retain), forget_grads=forget)
    spec = {name: PartitionSpec() if name == "whole" else PartitionSpec("devices") for name in shapes}
    forget_spec = {name: PartitionSpec(*(None,) * len(lead), *value) for name, value in spec.items()}
    run = jax.shard_map(
        lambda r, f: parts.update(r, parts.init(r), forget_grads=f),
        mesh=LINE,
        in_specs=(spec, forget_spec),
        out_specs=(spec, PartitionSpec()),
        check_vma=check_vma,
    )
    got, measured = jax.jit(run)(retain, forget)
    assert_equal(got, wanted)
    assert_equal(hamu_jax.get_hardness(measured).kappa, hamu_jax.get_hardness(state).kappa)


def test_uneven_batches_leave_nobody_out() -> None:
    """Every example counts alike, wherever it lies: dropping the last ones, or counting devices alike, would differ."""
    batch = sets("transformer")[1]
    split = sharding.split_batch(batch, 8)
    assert split.weights.shape == (8, 2)
    assert split.weights.sum() == FORGET
    paired = hamu_jax.paired_value_and_grad(loss("transformer"), axis_name="devices")
    losses = jax.pmap(
        lambda part: paired(start("transformer"), part.batch, part.batch, retain_weights=part.weights, forget_weights=None)[0],
        "devices",
    )(split)
    values = loss("transformer")(start("transformer"), batch)
    assert jnp.abs(losses.retain[0] - jnp.sum(values) / (FORGET - 1)) < 1e-9
    assert jnp.abs(losses.forget[0] - losses.retain[0]) > 1e-3, "what fills up would have counted"
