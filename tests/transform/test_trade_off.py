"""The local trade-off curve, against the closed form in numpy and against a convex solver."""

import math
import re
from typing import Any

import clarabel
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import hamu_jax

Leaves = dict[str, np.ndarray]


def gradients(seed: int, turn: float, dtype: Any = np.float64) -> tuple[Leaves, Leaves]:
    """Two gradients of three leaves whose whole vectors enclose the angle `turn` (degrees)."""
    rng = np.random.default_rng(seed)
    forget, other = rng.normal(size=(2, 12))
    other -= other @ forget / (forget @ forget) * forget
    other *= np.linalg.norm(forget) / np.linalg.norm(other)
    retain = 1.7 * (math.cos(math.radians(turn)) * forget + math.sin(math.radians(turn)) * other)
    return tuple(
        {"a": x[:2].astype(dtype), "b": x[2:8].reshape(2, 3).astype(dtype), "c": x[8:].astype(dtype)} for x in (retain, forget)
    )


def flat(leaves: Leaves) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in leaves.values()]).astype(np.float64)


def least_change(g: np.ndarray, f: np.ndarray, q: float, r: float) -> tuple[float, float]:
    """The closed form of one block (docs/mathematics.md, section 2): changes of the retain and of the forget loss.

    A requirement that uses up the radius, up to rounding, leaves only one step. (The root of what is left would be off by
    the square root of the rounding error.)
    """
    kappa, ff, rr = g @ f, f @ f, g @ g
    if abs(q - r * math.sqrt(ff)) <= 1e-14 * q:
        return r * kappa / math.sqrt(ff), r * math.sqrt(ff)
    if kappa <= -q * math.sqrt(rr) / r:
        return -r * math.sqrt(rr), -r * kappa / math.sqrt(rr)
    p = g - kappa / ff * f
    return q * kappa / ff - math.sqrt(max(r**2 - q**2 / ff, 0.0)) * np.linalg.norm(p), q


def socp(g: np.ndarray, f: np.ndarray, q: float, r: float) -> float:
    """The least `g.d` with `f.d >= q` and `|d| <= r`, by an interior-point method."""
    n, settings = len(g), clarabel.DefaultSettings()
    settings.verbose = False
    rows, limits = np.vstack([-f, np.zeros(n), -np.eye(n)]), np.concatenate([[-q, r], np.zeros(n)])
    cones = [clarabel.NonnegativeConeT(1), clarabel.SecondOrderConeT(n + 1)]
    solver = clarabel.DefaultSolver(sparse.csc_matrix((n, n)), g, sparse.csc_matrix(rows), limits, cones, settings)
    solution = solver.solve()
    assert solution.status == clarabel.SolverStatus.Solved
    return solution.obj_val


TURNS = [20.0, 80.0, 90.5, 140.0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("radius", [None, 0.3])
def test_the_global_curve(turn: float, radius: float | None) -> None:
    retain, forget = gradients(0, turn)
    curve = hamu_jax.trade_off(retain, forget, radius=radius, blocks="global", points=11)
    g, f = flat(retain), flat(forget)
    r = np.linalg.norm(g) if radius is None else radius
    largest = r * np.linalg.norm(f)
    np.testing.assert_allclose(curve.largest, largest, rtol=1e-14)
    np.testing.assert_allclose(curve.improvement, np.linspace(0, largest, 11), rtol=1e-13)
    closed = np.array([least_change(g, f, q, r) for q in curve.improvement])
    scale = r * np.linalg.norm(g)
    np.testing.assert_allclose(curve.retain_change, closed[:, 0], atol=1e-13 * scale, rtol=0)
    np.testing.assert_allclose(curve.forget_change, closed[:, 1], atol=1e-13 * largest, rtol=0)
    for point in (0, 3, 7, 9):
        solved = socp(g / np.linalg.norm(g), f / np.linalg.norm(f), float(curve.improvement[point]) / largest, 1.0)
        np.testing.assert_allclose(curve.retain_change[point] / scale, solved, atol=3e-7)  # the solver stops at 1e-8


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("turn", TURNS)
def test_what_is_free(turn: float) -> None:
    retain, forget = gradients(1, turn)
    curve = hamu_jax.trade_off(retain, forget, radius=0.3, blocks="global", points=2)
    g, f = flat(retain), flat(forget)
    rejection = np.linalg.norm(g - g @ f / (f @ f) * f)
    # Opposed gradients: whatever the ball allows is free.
    expected = 0.3 * rejection * np.linalg.norm(f) / np.linalg.norm(g) if turn < 90 else curve.largest
    np.testing.assert_allclose(curve.free, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_parallel_gradients_leave_nothing_free() -> None:
    retain, _ = gradients(2, 50.0)
    curve = hamu_jax.trade_off(retain, {k: 2 * v for k, v in retain.items()}, blocks="global", points=5)
    assert float(curve.free) <= 1e-15 * float(curve.largest)
    np.testing.assert_allclose(curve.retain_change, curve.improvement / 2, rtol=1e-12)  # nothing else can be done


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distribution", ["grad_norm", "uniform", "relative", "function"])
def test_blocks_add_up(distribution: str) -> None:
    retain, forget = gradients(3, 60.0)
    pairs = [(np.ravel(retain[name]), np.ravel(forget[name])) for name in retain]
    products = np.array([np.linalg.norm(g) * np.linalg.norm(f) for g, f in pairs])
    weights = {
        "grad_norm": products / products.sum(),
        "uniform": np.full(3, 1 / 3),
        "relative": products,
        "function": np.array([0.5, 0.25, 0.25]),
    }[distribution]
    chosen = (lambda rr, ff, kappa: jnp.array([0.5, 0.25, 0.25])) if distribution == "function" else distribution  # noqa: ARG005
    curve = hamu_jax.trade_off(retain, forget, distribution=chosen, points=7)
    largest = np.min(products / weights)  # with the radius |g_r| a block reaches |g_r| |g_f|
    np.testing.assert_allclose(curve.largest, largest, rtol=1e-13)

    def summed(q: float) -> np.ndarray:
        return sum(np.array(least_change(g, f, w * q, np.linalg.norm(g))) for (g, f), w in zip(pairs, weights, strict=True))

    closed = np.array([summed(q) for q in np.linspace(0, largest, 7)])
    np.testing.assert_allclose(curve.retain_change, closed[:, 0], atol=1e-13, rtol=0)
    np.testing.assert_allclose(curve.forget_change, closed[:, 1], rtol=1e-12)
    if closed[-1, 0] > 0:
        free = float(curve.free)
        assert summed(free * (1 - 1e-9))[0] < 0 < summed(free * (1 + 1e-9))[0]
    else:
        assert curve.free == curve.largest


@pytest.mark.usefixtures("x64")
def test_clipping_scales_the_problem_but_not_the_losses() -> None:
    retain, forget = gradients(4, 70.0)
    g, f = flat(retain), flat(forget)
    curve = hamu_jax.trade_off(retain, forget, blocks="global", clip_norm=0.5, points=5)
    small_g, small_f = (x * min(1.0, 0.5 / (np.linalg.norm(x) + 1e-6)) for x in (g, f))  # torch's clipping
    r = np.linalg.norm(small_g)
    np.testing.assert_allclose(curve.largest, r * np.linalg.norm(small_f), rtol=1e-12)
    closed = np.array([least_change(small_g, small_f, q, r) for q in curve.improvement])
    closed *= [np.linalg.norm(g) / r, np.linalg.norm(f) / np.linalg.norm(small_f)]
    np.testing.assert_allclose(curve.retain_change, closed[:, 0], rtol=1e-12)
    np.testing.assert_allclose(curve.forget_change, closed[:, 1], rtol=1e-12)


def test_in_float32() -> None:
    retain, forget = gradients(5, 40.0, np.float32)
    curve = hamu_jax.trade_off(retain, forget, blocks="global")
    g, f = flat(retain), flat(forget)
    assert curve.improvement.shape == (101,)
    assert curve.retain_change.dtype == jnp.float32
    required = np.linspace(0, np.linalg.norm(g) * np.linalg.norm(f), 101)
    closed = np.array([least_change(g, f, q, np.linalg.norm(g))[0] for q in required])
    np.testing.assert_allclose(curve.retain_change, closed, atol=1e-6 * (g @ g), rtol=0)
    expected = np.linalg.norm(g - g @ f / (f @ f) * f) * np.linalg.norm(f)
    np.testing.assert_allclose(curve.free, expected, rtol=1e-6)


@pytest.mark.parametrize("which", [(0, 1), (1, 0), (0, 0)])
def test_a_zero_gradient_can_do_nothing(which: tuple[int, int]) -> None:
    grads = {"w": jnp.array([3.0, 4.0])}
    retain, forget = ({"w": scale * grads["w"]} for scale in which)
    curve = hamu_jax.trade_off(retain, forget, points=3)
    np.testing.assert_array_equal(curve.improvement, np.zeros(3))
    assert curve.largest == curve.free == 0
    np.testing.assert_array_equal(curve.retain_change, np.full(3, -25.0 * which[0]))  # descent on the retain loss


GRADS = {"w": jnp.ones(2)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"points": 1}, ValueError, "points: got 1, expected a whole number of at least 2"),
        ({"radius": -1.0}, ValueError, "radius: got -1.0, expected a number of at least 0"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: got 0.0, expected a positive number"),
        ({"blocks": "layer"}, ValueError, "blocks: got 'layer', expected 'leaf', 'global' or a function"),
        (
            {"distribution": "even"},
            ValueError,
            "distribution: got 'even', expected one of grad_norm, uniform, softmax, relative",
        ),
        ({"retain_grads": {"w": jnp.arange(2)}}, TypeError, "retain_grads: got int32 at 'w', expected a floating-point array"),
        ({"forget_grads": {"w": jnp.arange(2)}}, TypeError, "forget_grads: got int32 at 'w', expected a floating-point array"),
        (
            {"forget_grads": {"w": jnp.ones(3)}},
            ValueError,
            "forget_grads: got shape (3,) at 'w', expected (2,) as in retain_grads",
        ),
        ({"forget_grads": {"v": jnp.ones(2)}}, ValueError, "forget_grads: got the leaf 'v' where retain_grads has 'w'"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        hamu_jax.trade_off(**{"retain_grads": GRADS, "forget_grads": GRADS, **options})
