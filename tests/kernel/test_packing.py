"""Trees of many small tensors: stacked inside, they are compiled in little time, and nothing else changes."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_gradient_problems import AS_USERS_COMPILE, PLAIN_COMPILE, dot, norm, sample

import hamu_jax
from hamu_jax import Stacked
from hamu_jax._kernel import packing as packing_module
from hamu_jax._kernel.blocks import partition
from hamu_jax._kernel.packing import packing
from hamu_jax._transform import combine as combine_module
from hamu_jax._transform.step import step

SHAPES = {"kernel": (2, 3), "scale": (), "bias": (3,)}
LAYERS = 10


def tree(seed: int, dtypes: tuple[Any, ...] = (np.float64,)) -> dict[str, Any]:
    """Ten layers alike, the last two in the second dtype if there are two, and two tensors like nothing else."""
    rng = np.random.default_rng(seed)
    kinds = [dtypes[min(i // 8, len(dtypes) - 1)] for i in range(LAYERS)]
    layers = [{name: rng.normal(size=shape).astype(kind) for name, shape in SHAPES.items()} for kind in kinds]
    return {
        "layers": layers,
        "head": rng.normal(size=(4, 2)).astype(dtypes[0]),
        "none": None,
        "stack": rng.normal(size=(LAYERS, 3)),
    }


def label(path: Any) -> Any:
    """Kernel and bias of a layer together, all scales, and one tensor that counts blocks, shaped as stacked biases are."""
    if path[0].key == "stack":
        return Stacked("stack")
    return "scales" if path[-1] == jax.tree_util.DictKey("scale") else path[0].key if len(path) == 1 else path[1].idx


def groups(*trees: Any, blocks: Any = "leaf") -> tuple[tuple[int, ...], ...]:
    return packing(trees[0], trees[-1], partition(trees[0], blocks)).groups


def test_what_is_alike_is_put_together() -> None:
    many = [np.ones(shape, np.float32) for shape in [(4,)] * 8 + [(2, 2)] * 7 + [()] * 8]
    assert groups(many) == (tuple(range(8)), *((i,) for i in range(8, 15)), tuple(range(15, 23)))
    assert len(groups([np.ones(2, np.float32)] * (packing_module.MOST + 8))) == 2
    assert len(groups([np.ones(packing_module.LARGEST + 1, np.float32)] * 8)) == 8
    assert len(groups([np.ones(4, np.float32)] * 8, blocks=lambda path: Stacked(path[0].idx))) == 8


def test_what_differs_in_either_tree_is_not() -> None:
    single, narrow = np.ones(2, np.float32), np.ones(2, np.float16)
    assert len(groups([single] * 8)) == 1
    assert len(groups([single] * 7 + [narrow])) == 8
    assert len(groups([single] * 8, [single] * 7 + [narrow])) == 8
    assert len(groups([single] * 8, [narrow] * 8)) == 1


def test_there_and_back() -> None:
    given = tree(0, (np.float32,)) | {"stack": None}
    packed = packing(given, given, partition(given, "leaf"))
    parts = packed.pack(given)
    assert len(parts) < LAYERS
    jax.tree.map(np.testing.assert_array_equal, packed.unpack(parts, given, jnp.array(True)), given)
    zeros = jax.tree.map(np.zeros_like, given)
    jax.tree.map(np.testing.assert_array_equal, packed.unpack(packed.pack(zeros), given, jnp.array(False)), zeros)


def solved(retain: Any, forget: Any, options: dict[str, Any]) -> Any:
    """The update and the state, traced anew."""
    tx = hamu_jax.transform(0.3, **options)
    with jax.enable_x64(True):
        update = jax.jit(lambda r, f: tx.update(r, tx.init(r), forget_grads=f), compiler_options=PLAIN_COMPILE)
        return jax.device_get(update(retain, forget))


@pytest.mark.parametrize(
    ("options", "dtypes"),
    [
        ({}, (np.float64,)),
        ({"blocks": label, "variant": "u", "clip_norm": 1.0}, (np.float64,)),
        ({"blocks": "global", "distribution": "relative"}, (np.float64, jnp.bfloat16)),
    ],
    ids=["leaf", "labels", "global"],
)
def test_stacking_changes_rounding_only(options: Any, dtypes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combine_module, "_launch", step)  # which remembers what it traced
    retain, forget = tree(1, dtypes), tree(2)
    assert len(groups(retain, forget, blocks=options.get("blocks", "leaf"))) < len(jax.tree.leaves(retain))
    together = solved(retain, forget, options)
    monkeypatch.setattr(packing_module, "FEWEST", 1000)
    assert len(groups(retain, forget)) == len(jax.tree.leaves(retain))
    alone = solved(retain, forget, options)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), together[1], alone[1])
    for x, y in zip(*map(jax.tree.leaves, (together[0], alone[0])), strict=True):
        assert x.dtype == y.dtype
        eps = float(jnp.finfo(x.dtype).eps)
        np.testing.assert_allclose(x.astype(np.float64), y.astype(np.float64), rtol=max(1e-10, eps), atol=1e-12)


def by_hand(retain: list[np.ndarray], forget: list[np.ndarray], improvement: float) -> tuple[list[np.ndarray], list[float]]:
    """The closed form tensor by tensor, in float64: the directions and every tensor's kappa."""
    pairs = [(np.float64(r), np.float64(f)) for r, f in zip(retain, forget, strict=True)]
    lengths = [np.linalg.norm(r) * np.linalg.norm(f) for r, f in pairs]
    steps, kappas = [], []
    for (r, f), length in zip(pairs, lengths, strict=True):
        required, radius, square = improvement * length / sum(lengths), np.linalg.norm(r), np.sum(f * f)
        kappas.append(np.sum(r * f))
        across = r - kappas[-1] / square * f
        left = np.sqrt(max(radius**2 - required**2 / square, 0.0)) / max(np.linalg.norm(across), 1e-300)
        steps.append(-r if kappas[-1] <= -required else required / square * f - left * across)
    return steps, kappas


def small(rng: np.random.Generator, layers: int) -> list[dict[str, np.ndarray]]:
    """Two tensors a layer, in single precision."""
    shapes = {"kernel": (4, 4), "bias": (4,)}
    return [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(layers)]


def assert_solved(layers: int) -> None:
    """Compiled as users do, every tensor has its own step, and is in its place."""
    rng = np.random.default_rng(0)
    retain, forget = small(rng, layers), small(rng, layers)
    tx = hamu_jax.transform(0.2)
    updates, state = jax.jit(lambda r, f: tx.update(r, tx.init(r), forget_grads=f))(retain, forget)
    steps, kappas = by_hand(jax.tree.leaves(retain), jax.tree.leaves(forget), 0.2)
    np.testing.assert_allclose(state.hardness.kappa, kappas, rtol=0, atol=1e-5)
    for update, direction in zip(jax.tree.leaves(updates), steps, strict=True):
        np.testing.assert_allclose(update, -direction, rtol=0, atol=1e-4)


def test_every_tensor_by_hand() -> None:
    assert_solved(40)


@pytest.mark.parametrize("variant", ["q", "u"])
def test_promises_at_small_angles(variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In stacks too the step is made of the residual that was measured, as users compile it."""
    monkeypatch.setattr(packing_module, "MOST", 32)
    angle = 10.0 ** np.random.default_rng(0).uniform(-4, -1, 64)
    problems = sample(3, 64, 200, angle=angle, dtype=np.float32)
    tx = hamu_jax.transform(0.5, distribution="relative", variant=variant)
    update = jax.jit(lambda r, f: tx.update(r, tx.init(r), forget_grads=f), compiler_options=AS_USERS_COMPILE)
    assert len(groups(list(problems.retain), list(problems.forget))) == 2
    updates, state = update(list(problems.retain), list(problems.forget))
    given = problems if variant == "q" else problems.exchanged()
    reach = norm(given.retain) * norm(given.forget)
    assert np.all(state.hardness.regime == hamu_jax.Regime.RECTIFIED)
    assert np.all(dot(given.forget, -np.stack(updates)) >= (0.5 - 1e-6) * reach)
    assert np.all(norm(np.stack(updates)) <= norm(given.retain) * (1 + 1e-6 + np.finfo(np.float32).eps / np.sin(angle)))


@pytest.mark.slow
def test_five_thousand_tensors() -> None:
    """A tenth of a second each, as a tensor takes by itself, would be eight minutes."""
    assert_solved(2500)


def kernels(layers: int) -> int:
    """How many different loops the compiled update has, whatever their names."""
    retain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), small(np.random.default_rng(0), layers))
    tx = hamu_jax.transform(0.2)
    update = jax.jit(lambda r, f: tx.update(r, tx.init(r), forget_grads=f), compiler_options=PLAIN_COMPILE)
    program = update.lower(retain, retain).compile().as_text()
    bodies = re.findall(r"^%?(?:fused|wrapped)\S* \(.*?\{$(.*?)^\}", program, re.MULTILINE | re.DOTALL)
    assert len(bodies) > 2 * layers  # at least one per tensor
    return len({re.sub(r"%?[\w-]+\.[\w.]+|metadata=\{.*?\}", "", body) for body in bodies})


def test_tensors_of_one_shape_share_their_kernels() -> None:
    """A kernel per tensor is what takes time to compile: a stack of 60 tensors has no more of them than one of 10."""
    assert kernels(layers=60) <= kernels(layers=10) + 10


def test_many_trees_at_a_time_and_on_a_mesh() -> None:
    """Under `vmap`, where a conditional becomes a selection, and under `shard_map`: as one tree at a time, outside."""
    retain, forget = ({"x": list(np.random.default_rng(seed).normal(size=(9, 2, 5)).astype(np.float32))} for seed in (0, 1))
    retain["x"][3][1, 0] = np.nan
    tx = hamu_jax.transform(0.2)

    def update(r: Any, f: Any) -> Any:
        return tx.update(r, tx.init(r), forget_grads=f)[0]

    alone = [jax.jit(update)(*(jax.tree.map(lambda x, i=i: x[i], t) for t in (retain, forget))) for i in range(2)]
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), alone[1])
    assert np.all(np.abs(alone[0]["x"][0]) > 0)
    together = jax.jit(jax.vmap(update))(retain, forget)
    jax.tree.map(lambda x, *ys: np.testing.assert_allclose(x, np.stack(ys), rtol=0, atol=1e-6), together, *alone)
    mesh, rows = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), jax.sharding.PartitionSpec("data")
    split = jax.jit(jax.shard_map(jax.vmap(update), mesh=mesh, in_specs=rows, out_specs=rows))
    jax.tree.map(np.testing.assert_array_equal, split(retain, forget), together)


def test_reductions_are_counted_in_stacks() -> None:
    """What decides how long it compiles: three inner products and two of the residual, a stack."""
    retain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), small(np.random.default_rng(0), 500))
    tx = hamu_jax.transform(0.2)
    text = str(jax.make_jaxpr(lambda r, f: tx.update(r, tx.init(r), forget_grads=f))(retain, retain))
    assert text.count("reduce_sum[") < 5 * 2 * (500 // packing_module.MOST + 1) + 100
