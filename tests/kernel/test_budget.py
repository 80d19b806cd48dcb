"""How the required improvement is shared out."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from hamu_jax._kernel.budget import shares

RETAIN = np.array([4.0, 1.0, 0.25])
FORGET = np.array([1.0, 9.0, 0.0])
KAPPA = np.array([-2.0, 1.0, 0.0])
EXPECTED = {
    "grad_norm": np.array([2.0, 3.0, 0.0]) / 5,
    "uniform": np.ones(3) / 3,
    "softmax": np.exp([2.0, -1.0, 0.0]) / np.sum(np.exp([2.0, -1.0, 0.0])),
    "relative": np.array([2.0, 3.0, 0.0]),
}


def of(distribution: Any, retain: Any = RETAIN, forget: Any = FORGET, kappa: Any = KAPPA) -> np.ndarray:
    return np.asarray(shares(distribution, *(jnp.asarray(x, jnp.float32) for x in (retain, forget, kappa))))


@pytest.mark.parametrize("name", EXPECTED)
def test_shares(name: str) -> None:
    np.testing.assert_allclose(of(name), EXPECTED[name], rtol=1e-6)


@pytest.mark.parametrize("name", ["grad_norm", "uniform", "softmax"])
def test_normalised_shares_sum_to_one(name: str) -> None:
    assert abs(of(name).sum() - 1) <= 2e-7


def test_softmax_is_stable() -> None:
    np.testing.assert_array_equal(of("softmax", kappa=[-1e30, 0.0, 1e30]), [1, 0, 0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_grad_norm_does_not_overflow(scale: float) -> None:
    np.testing.assert_allclose(of("grad_norm", RETAIN * scale, FORGET * scale), EXPECTED["grad_norm"], rtol=1e-6)


def test_without_any_gradient_the_constraint_does_not_vanish() -> None:
    np.testing.assert_allclose(of("grad_norm", forget=np.zeros(3)), np.ones(3) / 3, rtol=1e-6)


def test_a_function() -> None:
    np.testing.assert_allclose(of(lambda rr, ff, kappa: rr + 2 * ff + 3 * kappa), RETAIN + 2 * FORGET + 3 * KAPPA, rtol=1e-6)


def test_a_function_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"distribution: got an array of shape \(2,\), expected one share per block, \(3,\)"):
        of(lambda rr, _ff, _kappa: rr[:2])


def test_an_unknown_name() -> None:
    message = r"distribution: got 'even', expected one of grad_norm, uniform, softmax, relative, cosine, or a function"
    with pytest.raises(ValueError, match=message):
        of("even")
