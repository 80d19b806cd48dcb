"""ResNet-20 against the PyTorch reference: the same weights give its logits, gradients and weights after two steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from shared_data import shared
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from experiments.models.resnet import ResNet, load_torch
from hamu_jax import objectives

pytestmark = pytest.mark.usefixtures("as_users_promote")

FIRST = "resnet.embedder.embedder.weight"


@functools.cache
def fixture() -> dict[str, np.ndarray]:
    with np.load(shared("fixtures", "resnet20.npz"), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def below(prefix: str) -> dict[str, np.ndarray]:
    """The fixture's arrays below a name, with the original network's for those that are not there."""
    held = fixture()
    original, own = ({k.removeprefix(p): v for k, v in held.items() if k.startswith(p)} for p in ("state/", prefix))
    return original | own


def model(state: dict[str, np.ndarray]) -> ResNet:
    made = ResNet(10, rngs=nnx.Rngs(0))
    load_torch(made, state)
    return made


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    """In float64: the parameters of the reference's network, and the jitted gradients of both losses, with the logits."""
    with jax.enable_x64(True):
        graph, params, statistics = nnx.split(model(below("state/")), nnx.Param, ...)

        def logits(params: Any, batch: Any) -> jax.Array:
            return nnx.merge(graph, params, statistics, copy=True)(batch["image"])

        grads = hamu_jax.paired_value_and_grad(objectives.cross_entropy(logits))
        compiled = jax.jit(lambda p, r, f: (*grads(p, r, f), logits(p, r)), compiler_options=PLAIN_COMPILE)
    return params, compiled


def batch(name: str) -> dict[str, Any]:
    images = np.moveaxis(fixture()[f"{name}_x"], 1, -1)
    return {"image": jnp.asarray(images), "label": jnp.asarray(fixture()[f"{name}_y"], jnp.int32)}


def assert_equal(tree: Any, prefix: str) -> None:
    """Whether a tree has the reference's values, to 1e-8."""
    expected = nnx.state(model(below(prefix)), nnx.Param)
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8), tree, expected)


def test_parameters() -> None:
    leaves = jax.tree.leaves(nnx.state(ResNet(10, rngs=nnx.Rngs(0)), nnx.Param))
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (65, 272_474)


def test_initial_kernels_are_kaiming_normal_by_outputs() -> None:
    kernel = ResNet(10, rngs=nnx.Rngs(0)).stages[2][1].first.conv.kernel[...]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


@pytest.mark.slow
def test_logits_losses_and_gradients(network: Any) -> None:
    params, compiled = network
    with jax.enable_x64(True):
        losses, grads, logits = compiled(params, batch("retain"), batch("forget"))
        np.testing.assert_allclose(logits, fixture()["retain_logits"], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(losses, [fixture()["retain_loss"], fixture()["forget_loss"]], rtol=1e-8)
        assert_equal(grads.retain, "retain_grad/")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["q", "u"])
def test_weights_after_two_steps(network: Any, variant: str) -> None:
    params, compiled = network
    options = {"variant": variant, "clip_norm": 1.0, "infeasible": "ascend"}
    with jax.enable_x64(True):
        optimizer = hamu_jax.hamu(1e-2, 0.3, **options)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update, compiler_options=PLAIN_COMPILE)
        for _ in range(2):
            _, grads, _ = compiled(params, batch("retain"), batch("forget"))
            updates, state = update(grads.retain, state, params, forget_grads=grads.forget)
            params = optax.apply_updates(params, updates)
        assert_equal(params, f"hamu-{variant}/after2/")


def test_frozen_statistics_stay_and_others_move() -> None:
    made = ResNet(10, blocks=1, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(made, nnx.BatchStat))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    made(images)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(made, nnx.BatchStat), before)
    made(images, train=True)
    changed = jax.tree.map(lambda new, old: bool(np.any(new != old)), nnx.state(made, nnx.BatchStat), before)
    assert all(jax.tree.leaves(changed))
    # A tenth of the way from (0, 1) to the batch's own moments, as PyTorch's momentum of 0.1.
    stem = np.asarray(made.stem.conv(images), np.float64).reshape(-1, 16)
    np.testing.assert_allclose(made.stem.norm.mean[...], 0.1 * stem.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.stem.norm.var[...], 0.9 + 0.1 * stem.var(axis=0), rtol=1e-5)


def test_weights_of_another_shape_are_refused() -> None:
    state = dict.fromkeys([FIRST], np.zeros((8, 3, 3, 3)))
    with pytest.raises(ValueError, match=r"state\['resnet.embedder.embedder.weight'\]: got shape \(3, 3, 3, 8\)"):
        load_torch(ResNet(10, rngs=nnx.Rngs(0)), state)
