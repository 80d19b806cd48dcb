"""Promises that are measured: halvings by hand, and the driver's steps with and without requests."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_gradient_problems import PLAIN_COMPILE

from hamu_jax import Guarantee
from hamu_jax._driver.guarantee import shortened


@functools.cache
def compiled(guarantee: Guarantee, losses: Any) -> Any:
    def run(x: Any, u: Any, before: Any, promised: Any) -> Any:
        return shortened(guarantee, losses, x, u, before=before, promised=promised)

    return jax.jit(run, compiler_options=PLAIN_COMPILE)


def tried(guarantee: Guarantee, losses: Any, update: float, promised: Any, x: float = 0.0) -> tuple[float, float, bool]:
    """The update taken, its scale and whether the promise is kept, from `x` on."""
    point = jnp.float32(x)
    before = losses(point)
    got = compiled(guarantee, losses)(point, jnp.float32(update), before, jnp.asarray(promised, jnp.float32))
    return tuple(x.item() for x in got)


def concave(x: Any) -> Any:
    """Slope 1 at 0, and curvature -2: a step of `s u` rises by `s u - (s u)^2`."""
    return (x - x**2)[None]


def convex(x: Any) -> Any:
    return (x + x**2)[None]


@pytest.mark.parametrize(
    ("guarantee", "update", "scale"),
    [
        # s u - s^2 u^2 >= f s u just where s u <= 1 - f; all are exact in binary.
        (Guarantee(), 0.5, 1.0),
        (Guarantee(), 1.0, 0.5),
        (Guarantee(), 1.25, 0.25),
        (Guarantee(), 4.0, 1 / 8),
        (Guarantee(), 128.0, 1 / 256),
        (Guarantee(), 129.0, 0.0),  # 8 halvings are not enough
        (Guarantee(halvings=9), 129.0, 1 / 512),
        (Guarantee(fraction=0.75), 1.0, 0.25),
        (Guarantee(fraction=0.75, halvings=1), 1.0, 0.0),
        (Guarantee(fraction=0.125), 0.875, 1.0),
        (Guarantee(fraction=1.0), 1.0, 0.0),  # a loss that bends down never keeps all of it
    ],
)
def test_halvings_by_hand(guarantee: Guarantee, update: float, scale: float) -> None:
    assert tried(guarantee, concave, update, [update]) == (update * scale, scale, scale > 0)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_a_loss_that_bends_upwards_gets_the_whole_step(fraction: float) -> None:
    assert tried(Guarantee(fraction=fraction), convex, 3.0, [3.0]) == (3.0, 1.0, True)


def test_another_point_and_sine() -> None:
    """From pi/4 on `sin` rises by `sin(pi/4 + s) - sin(pi/4)`, at slope `cos(pi/4)`."""
    begin, update = np.pi / 4, 2.0
    slope = np.cos(begin)
    rises = {s: np.sin(begin + s * update) - np.sin(begin) for s in 2.0 ** -np.arange(9)}
    expected = max(s for s, rise in rises.items() if rise >= 0.75 * s * update * slope)
    assert 0 < expected < 0.5
    got = tried(Guarantee(fraction=0.75), sine, update, [update * slope], x=begin)
    assert got == (update * expected, expected, True)


def sine(x: Any) -> Any:
    return jnp.sin(x)[None]


def test_a_promise_that_cannot_be_kept() -> None:
    assert tried(Guarantee(), lambda x: -x[None], 1.0, [1.0]) == (0.0, 0.0, False)


def test_every_request_counts() -> None:
    """The second needs `s <= 1/4`; one that falls is enough to take no step."""
    assert tried(Guarantee(), two, 1.0, [1.0, 2.0]) == (0.25, 0.25, True)
    assert tried(Guarantee(), lambda x: jnp.stack([x, -x]), 1.0, [1.0, 0.1]) == (0.0, 0.0, False)


def two(x: Any) -> Any:
    return jnp.stack([x, 2 * x - 4 * x**2])


def test_no_promise_is_kept_by_no_step() -> None:
    assert tried(Guarantee(), concave, 0.0, [0.0]) == (0.0, 1.0, True)


def test_a_rise_below_rounding_is_not_asked_for() -> None:
    """At a loss of 1000 a float32 can't tell a rise of 1e-5 from none."""
    assert tried(Guarantee(), lambda x: (1000 + x)[None], 1e-5, [1e-5]) == (pytest.approx(1e-5), 1.0, True)
    assert tried(Guarantee(), lambda x: (1000 - x)[None], 1.0, [1.0]) == (0.0, 0.0, False)


@pytest.mark.parametrize("beyond", [jnp.nan, jnp.inf])
def test_a_loss_that_is_not_finite_at_the_new_point_is_not_accepted(beyond: float) -> None:
    def walled(x: Any) -> Any:
        return jnp.where(x > 0.3, beyond, x)[None]

    def nowhere(x: Any) -> Any:
        return jnp.where(x > 0, beyond, x)[None]

    assert tried(Guarantee(), walled, 1.0, [1.0]) == (0.25, 0.25, True)
    assert tried(Guarantee(), nowhere, 1.0, [1.0]) == (0.0, 0.0, False)


@pytest.mark.parametrize("update", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_no_step(update: float) -> None:
    assert tried(Guarantee(), concave, update, [1.0]) == (0.0, 0.0, False)


def test_updates_keep_their_dtypes() -> None:
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(2)}
    updates = jax.tree.map(jnp.ones_like, params)

    def losses(p: Any) -> Any:
        x = (jnp.sum(p["a"].astype(jnp.float32)) + jnp.sum(p["b"])) / 4
        return concave(x)

    got, scale, kept = shortened(Guarantee(), losses, params, updates, before=jnp.zeros(1), promised=jnp.ones(1))
    assert (scale.item(), kept.item()) == (0.5, True)
    assert {name: x.dtype for name, x in got.items()} == {"a": jnp.bfloat16, "b": jnp.float32}
    assert all(np.all(np.asarray(x, np.float32) == 0.5) for x in got.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction: got 0.0, expected a positive number"),
        ({"fraction": -0.5}, "fraction: got -0.5, expected a positive number"),
        ({"fraction": np.nan}, "fraction: got nan, expected a positive number"),
        ({"fraction": 1.5}, "fraction: got 1.5, expected at most 1"),
        ({"fraction": "half"}, "fraction: got 'half', expected a positive number"),
        ({"halvings": 0}, "halvings: got 0, expected a whole number of at least 1"),
        ({"halvings": 2.5}, "halvings: got 2.5, expected a whole number of at least 1"),
        ({"halvings": True}, "halvings: got True, expected a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Guarantee(**options)


def test_where_nothing_is_promised_nothing_is_asked() -> None:
    """A step along which the forget loss falls (HAMU-U, momentum) is taken as it is; it would be refused at any length."""
    before, promised = jnp.ones(1), -0.25 * jnp.ones(1)
    updates, scale, kept = shortened(
        Guarantee(), lambda x: x[None], jnp.float32(1.0), jnp.float32(-0.25), before=before, promised=promised
    )
    assert (float(updates), float(scale), bool(kept)) == (-0.25, 1.0, True)
