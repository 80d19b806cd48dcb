"""The measured quantities, against numpy in float64."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from two_gradient_problems import Problems, dot, norm, sample, solve

from hamu_jax import Regime


@pytest.mark.parametrize("variant", ["q", "u"])
def test_quantities(variant: str) -> None:
    problems = sample(1, 50, 8, scales=(-1, 1), variant=variant)
    directions, h = solve(problems, variant)
    retain, forget, q, r = problems
    free, guaranteed = (norm(retain), norm(forget)) if variant == "q" else (norm(forget), norm(retain))
    kappa = dot(retain, forget)
    length = free * guaranteed
    np.testing.assert_allclose(h.kappa[:, 0], kappa, rtol=0, atol=1e-14 * length.max())
    np.testing.assert_allclose(h.cosine[:, 0], kappa / length, rtol=0, atol=1e-14)
    np.testing.assert_allclose(h.retain_norm[:, 0], norm(retain), rtol=1e-14)
    np.testing.assert_allclose(h.forget_norm[:, 0], norm(forget), rtol=1e-14)
    np.testing.assert_allclose(h.radius[:, 0], r, rtol=1e-15)
    np.testing.assert_allclose(h.improvement[:, 0], q, rtol=1e-15)
    np.testing.assert_allclose(h.kappa_1[:, 0], -q * free / r, rtol=1e-14, atol=0)
    room = np.sqrt(np.maximum(guaranteed**2 - (q / r) ** 2, 0))
    np.testing.assert_allclose(h.kappa_2[:, 0], free * room, rtol=1e-12)
    np.testing.assert_array_equal(h.feasible[:, 0], q <= r * guaranteed)
    sine = np.sin(np.radians(h.angle[:, 0]))
    assert np.all(np.abs(h.stopping_quantity - r * guaranteed * sine) <= 1e-14 * r * guaranteed)
    np.testing.assert_array_equal(h.stopping_criterion, q > h.stopping_quantity)
    # Sums of two terms that may cancel, in units of what each could be.
    assert np.all(np.abs(h.retain_change[:, 0] - dot(retain, directions)) <= 1e-14 * r * norm(retain))
    assert np.all(np.abs(h.forget_change[:, 0] - dot(forget, directions)) <= 1e-14 * r * norm(forget))
    change = h.total_retain_change if variant == "q" else -h.total_forget_change
    np.testing.assert_array_equal(h.unavoidable, change > 0)


@pytest.mark.parametrize("degrees", [0.001, 1, 45, 90, 135, 179, 179.999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_angle(degrees: float, dtype: type) -> None:
    turn = np.radians(degrees)
    retain = np.tile([np.cos(turn), np.sin(turn)], (50, 1)).astype(dtype) * dtype(3)
    forget = np.tile([2.0, 0.0], (50, 1)).astype(dtype)
    _, hardness = solve(Problems(retain, forget, np.ones(50, dtype), np.ones(50, dtype)))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(hardness.angle[:, 0], degrees, rtol=4 * eps)


def test_unavoidable_knows_the_sign_that_the_papers_criterion_does_not() -> None:
    """Opposed gradients, the easiest case: the reference stops, we go on."""
    retain = np.tile([1.0, 0.1], (2, 1))
    forget = np.array([(-1.0, 0.0), (1.0, 0.2)])
    _, hardness = solve(Problems(retain, forget, np.full(2, 0.5), np.ones(2)))
    np.testing.assert_array_equal(hardness.stopping_criterion, [True, True])
    np.testing.assert_array_equal(hardness.unavoidable, [False, True])
    np.testing.assert_array_equal(hardness.regime[:, 0], [Regime.DIRECT, Regime.RECTIFIED])


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_float32_reaches_far(scale: float) -> None:
    retain, forget = (np.tile(x, (50, 1)).astype(np.float32) * np.float32(scale) for x in ([3.0, 4.0], [1.0, 1.0]))
    required = np.full(50, scale * scale, np.float32)
    directions, hardness = solve(Problems(retain, forget, required, None))
    np.testing.assert_allclose(dot(forget, directions), required, rtol=1e-6)
    assert all(np.all(np.isfinite(x)) for x in hardness)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_an_entry_of_an_array_is_a_regime(array: Any) -> None:
    """Python 3.12 no longer finds the value of an enumeration that has no hash."""
    assert [Regime(entry[...]) for entry in array([3, 0], np.int32)] == [Regime.INFEASIBLE, Regime.DIRECT]
    with pytest.raises(ValueError, match="5 is not a valid Regime"):
        Regime(array(5, np.int32))
