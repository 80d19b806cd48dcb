"""Inner products, residuals and combinations against numpy in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_gradient_problems import tree_of

from hamu_jax import Stacked
from hamu_jax._kernel.blocks import Partition, partition
from hamu_jax._kernel.inner_products import accumulation_dtype, combine_rows, gram, ratio, residual, rounding

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 3), "d": ()}
LABELS = {
    "leaf": {"a": [0], "b": [1], "c": [2], "d": [3]},
    "global": {"a": [0], "b": [0], "c": [0], "d": [0]},
    "mixed": {"a": [0, 1, 2], "b": [3], "c": [4, 5], "d": [3]},
}


def label(path: Any) -> Any:
    """`a` and `c` stack blocks, `b` and `d` share one."""
    name = path[0].key
    return Stacked(name) if name in "ac" else "rest"


def blocks_of(kind: str) -> Any:
    return label if kind == "mixed" else kind


def tree(seed: int, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return tree_of(rng, (), dtype, SHAPES)


def vectors(values: dict[str, Any], kind: str) -> list[np.ndarray]:
    """Each block's numbers as one float64 vector, by the hand-written table."""
    blocks: dict[int, list[np.ndarray]] = {}
    for name, index in LABELS[kind].items():
        value = np.asarray(values[name], np.float64)
        for block, part in zip(index, value if len(index) > 1 else [value], strict=True):
            blocks.setdefault(block, []).append(np.ravel(part))
    return [np.concatenate(blocks[i]) for i in sorted(blocks)]


def one_block(*rows: Any) -> Partition:
    return partition(rows[0], "global")


@pytest.mark.parametrize("kind", LABELS)
def test_gram(kind: str) -> None:
    rows = [tree(seed) for seed in range(3)]
    got = gram(rows, partition(rows[0], blocks_of(kind)))
    stacked = [np.stack(block) for block in zip(*(vectors(row, kind) for row in rows), strict=True)]
    np.testing.assert_allclose(got, [block @ block.T for block in stacked], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got, np.swapaxes(got, 1, 2))


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.usefixtures("x64")
def test_residual(kind: str) -> None:
    row, against = tree(0, jnp.float64), tree(1, jnp.float64)
    blocks = partition(row, blocks_of(kind))
    got = residual(row, against, gram((row, against), blocks), blocks)
    for i, (x, y) in enumerate(zip(vectors(row, kind), vectors(against, kind), strict=True)):
        expected = x - (x @ y) / (y @ y) * y
        np.testing.assert_allclose(got.first[i], (x @ y) / (y @ y), rtol=1e-13)
        assert abs(got.second[i]) <= 1e-15 * np.linalg.norm(x) / np.linalg.norm(y)
        np.testing.assert_allclose(got.norm[i], 0 if len(x) == 1 else np.linalg.norm(expected), rtol=1e-13)


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-3, 1e-4])
def test_residual_norm_at_small_angles_in_float32(angle: float) -> None:
    """The Gram form of the norm is all noise at 1e-4; the measured one is as exact as the gradients are."""
    rng = np.random.default_rng(0)
    along, across = np.linalg.qr(rng.normal(size=(1000, 2)))[0].T
    against = jnp.asarray(along, jnp.float32)
    row = jnp.asarray(np.cos(angle) * along + np.sin(angle) * across, jnp.float32)
    products = gram((row, against), one_block(row))
    got = residual(row, against, products, one_block(row))
    x, y = np.asarray(row, np.float64), np.asarray(against, np.float64)
    exact = np.linalg.norm(x - (x @ y) / (y @ y) * y)
    # Each number of the residual is rounded to 6e-8 of the row; in the norm of 1,000 of them this averages out.
    np.testing.assert_allclose(got.norm[0], exact, rtol=1e-6 + 1e-3 * 1e-4 / angle)
    if angle == 1e-4:
        from_gram = np.sqrt(max(0.0, products[0, 0, 0] - products[0, 0, 1] ** 2 / products[0, 1, 1]))
        assert abs(from_gram - exact) > 0.5 * exact


def test_parallel_rows_have_no_residual() -> None:
    row = jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.float32)
    against = row * 0.3
    assert residual(row, against, gram((row, against), one_block(row)), one_block(row)).norm[0] == 0


def test_zero_rows_have_finite_residuals() -> None:
    row, zero = jnp.ones(4), jnp.zeros(4)
    blocks = one_block(row)
    got = residual(row, zero, gram((row, zero), blocks), blocks)
    np.testing.assert_array_equal([got.first[0], got.second[0], got.norm[0]], [0, 0, 2])
    got = residual(zero, row, gram((zero, row), blocks), blocks)
    np.testing.assert_array_equal([got.first[0], got.second[0], got.norm[0]], [0, 0, 0])


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.usefixtures("x64")
def test_combine(kind: str) -> None:
    rows = [tree(seed, jnp.float64) for seed in range(3)]
    blocks = partition(rows[0], blocks_of(kind))
    weights = np.random.default_rng(9).normal(size=(len(blocks.labels), 3))
    scale = np.random.default_rng(8).normal(size=len(blocks.labels))
    parts = residual(rows[0], rows[1], gram(rows[:2], blocks), blocks)
    got = vectors(combine_rows(rows, jnp.asarray(weights), blocks, orthogonal=(jnp.asarray(scale), parts)), kind)
    for i, (x, y, z) in enumerate(zip(*(vectors(row, kind) for row in rows), strict=True)):
        expected = weights[i] @ np.stack([x, y, z]) + scale[i] * (x - (x @ y) / (y @ y) * y)
        np.testing.assert_allclose(got[i], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_combine_keeps_the_dtype_and_forgets_everything_on_demand(dtype: Any) -> None:
    row = {"x": jnp.array([jnp.nan, jnp.inf, 1.0], dtype)}
    blocks = partition(row, "global")
    dropped = combine_rows([row, row], jnp.ones((1, 2)), blocks, keep=jnp.array(False))["x"]
    assert dropped.dtype == dtype
    np.testing.assert_array_equal(dropped.astype(jnp.float32), 0)
    kept = combine_rows([row, row], jnp.ones((1, 2)), blocks)["x"]
    assert kept[2] == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_gradients_are_summed_in_float32(dtype: Any) -> None:
    """4,096 ones: in bfloat16 a running sum stops at 256; squares of 300 overflow in float16."""
    row = jnp.full(4096, 300.0, dtype)
    got = gram((row,), one_block(row))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[0, 0, 0], 4096 * float(row[0]) ** 2, rtol=1e-6)


LONG = [(5,), (70000,), (5003,), (131, 5003), (70000, 1), (3, 3, 16, 16), (300, 576), (301, 577), (2, 11008), (4, 0), ()]


@pytest.mark.parametrize("shape", LONG, ids=str)
@pytest.mark.parametrize("stacked", [False, True])
def test_sums_of_every_shape(shape: tuple[int, ...], stacked: bool) -> None:
    """Rows of any length, of a whole leaf and of a stack: as exact as float32 allows, however many numbers are summed."""
    rng = np.random.default_rng(len(shape))
    stack = (3, *shape) if stacked else shape
    x, y = (rng.normal(size=stack).astype(np.float32) + np.float32(0.5) for _ in range(2))
    blocks = partition(jnp.asarray(x), (lambda _: Stacked("s")) if stacked else "leaf")
    products = gram([jnp.asarray(x), jnp.asarray(y)], blocks)
    flat = [z.astype(np.float64).reshape(3 if stacked else 1, -1) for z in (x, y)]
    wanted = np.stack([[np.sum(a * b, axis=1) for b in flat] for a in flat]).transpose(2, 0, 1)
    np.testing.assert_allclose(products, wanted, rtol=1e-6)
    square = np.maximum(wanted[:, 1, 1], 1e-30)
    apart = flat[0] - (wanted[:, 0, 1] / square)[:, None] * flat[1]
    found = residual(jnp.asarray(x), jnp.asarray(y), products, blocks)
    atol = 1e-6 * np.sqrt(wanted[:, 0, 0]).max()  # of one number the residual is rounding
    np.testing.assert_allclose(found.norm, np.linalg.norm(apart, axis=1), rtol=1e-6, atol=atol)


def test_an_update_holds_nothing_of_the_size_of_the_parameters() -> None:
    """Measurement, residual and combination, in one program."""
    rows = [jax.ShapeDtypeStruct((512, 1024), jnp.float32) for _ in range(2)]
    blocks = partition(rows[0], "leaf")

    def update(x: jax.Array, y: jax.Array) -> Any:
        products = gram([x, y], blocks)
        coefficients = jnp.stack([products[:, 0, 0], products[:, 0, 1]], axis=-1)
        return combine_rows([x, y], coefficients, blocks, orthogonal=(products[:, 1, 1], residual(x, y, products, blocks)))

    memory = jax.jit(update).lower(*rows).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.05 * rows[0].size * 4


@pytest.mark.usefixtures("x64")
def test_accumulation_dtype() -> None:
    half, single, double = (jnp.ones(2, dtype) for dtype in (jnp.bfloat16, jnp.float32, jnp.float64))
    assert accumulation_dtype({"a": half}) == jnp.float32
    assert accumulation_dtype([half, single]) == jnp.float32
    assert accumulation_dtype([half, double]) == jnp.float64
    with jax.enable_x64(False):
        assert accumulation_dtype(np.ones(2)) == jnp.float32


def test_rounding_is_that_of_the_coarsest_leaf() -> None:
    assert rounding({"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}) == 2.0**-7
    assert rounding(jnp.ones(2)) == 2.0**-23


def test_ratio() -> None:
    np.testing.assert_array_equal(ratio(jnp.array([3.0, 3.0, 0.0]), jnp.array([2.0, 0.0, 0.0])), [1.5, 0.0, 0.0])
