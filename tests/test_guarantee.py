"""Promises that are measured: halvings by hand, and the driver's steps with and without requests."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import PLAIN_COMPILE
from runs import RETAIN, start
from runs import loss as squared

import hamu_jax
from hamu_jax import Groups, Guarantee
from hamu_jax._guarantee import shortened


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


# The driver: a bounded forget loss, which bends down, and groups of its examples.

RATE, IMPROVEMENT, STEPS = 0.5, 0.3, 6
RNG = np.random.default_rng(11)
FORGET = {
    "x": RNG.normal(size=(9, 3)).astype(np.float32),
    "y": RNG.normal(size=9).astype(np.float32),
    "group": np.arange(9, dtype=np.int32) % 3,
}
KEPT = {"batch_size": (8, 9), "steps": STEPS, "progress": False, "measure_every": 1}
GROUPS = Groups(lambda batch: batch["group"], 3)
NOISE = 1e-6  # the losses are below 1: four units of rounding, and that of the difference


def bounded(params: Any, batch: Any) -> Any:
    """Rises to 1 and no further."""
    return 1 - jnp.exp(-squared(params, batch))


def unlearned(optimizer: Any, **options: Any) -> hamu_jax.Unlearned:
    return hamu_jax.unlearn(squared, start(), RETAIN, FORGET, optimizer, forget_loss=bounded, **{**KEPT, **options})


def many(rate: float) -> Any:
    return hamu_jax.hamu(rate, IMPROVEMENT, blocks="global", forget_axis=0, num_requests=3)


def columns(result: hamu_jax.Unlearned, *names: str) -> list[np.ndarray]:
    return [result.history.column(name)[:STEPS] for name in names]


def check_kept(result: hamu_jax.Unlearned, guarantee: Guarantee, promised: str, measured: str) -> None:
    """Steps that were shortened, none that broke its promise; those that could not keep one were not taken."""
    scale, kept, length = columns(result, "step_scale", "guarantee_kept", "step_length")
    scales = {0.0} | {2.0**-i for i in range(guarantee.halvings + 1)}
    assert set(scale.tolist()) <= scales
    assert np.any((scale > 0) & (scale < 1)), "some step was too long"
    np.testing.assert_array_equal(kept.astype(bool), scale > 0)
    np.testing.assert_array_equal(length > 0, scale > 0)
    expected, seen = columns(result, promised, measured)
    assert np.all(seen[scale > 0] >= guarantee.fraction * expected[scale > 0] - NOISE)
    assert np.all(expected[scale > 0] > 0)


def test_unlearn_takes_only_steps_that_keep_their_promise() -> None:
    guarantee = Guarantee(fraction=0.75, halvings=6)
    result = unlearned(hamu_jax.hamu(RATE, IMPROVEMENT, blocks="global"), guarantee=guarantee)
    assert result.status == "completed"
    check_kept(result, guarantee, "forget_promised", "forget_measured")
    change, scale, promised = columns(result, "forget_change", "step_scale", "forget_promised")
    np.testing.assert_allclose(promised, RATE * change * scale, rtol=1e-5, atol=1e-7)
    assert "least_promised" not in result.history.rows[0]


def test_unlearn_takes_no_step_if_none_keeps_its_promise() -> None:
    """A loss that bends down keeps less than all of its promise at any length."""
    result = unlearned(hamu_jax.hamu(RATE, IMPROVEMENT, blocks="global"), guarantee=Guarantee(1.0, 2), steps=2)
    rows = result.history.rows[:2]
    assert [(row["step_scale"], row["guarantee_kept"], row["step_length"]) for row in rows] == [(0.0, False, 0.0)] * 2
    assert [(row["forget_promised"], row["forget_measured"], row["retain_measured"]) for row in rows] == [(0, 0, 0)] * 2
    for name, x in start().items():
        np.testing.assert_array_equal(result.params[name], x)


def test_unlearn_keeps_the_promise_to_every_request() -> None:
    guarantee = Guarantee(fraction=0.75, halvings=6)
    result = unlearned(many(RATE), guarantee=guarantee, forget_groups=GROUPS)
    check_kept(result, guarantee, "least_promised", "least_measured")
    least, mean = columns(result, "least_measured", "forget_measured")
    assert np.all(least <= mean + NOISE)


def test_unlearn_with_requests_is_a_plain_loop() -> None:
    """The losses and gradients of every group by hand, the transform itself, and plain steps.

    The last batch has no example of group 1: that request is not asked, and counts in no mean.
    """
    rate = 0.05
    retain = [{name: x[8 * i : 8 * i + 8] for name, x in RETAIN.items()} for i in range(4)]
    forget = [FORGET] * (STEPS - 1) + [{**FORGET, "group": np.where(FORGET["group"] == 1, -1, FORGET["group"])}]
    result = hamu_jax.unlearn(squared, start(), retain, forget, many(rate), forget_loss=bounded, forget_groups=GROUPS, **KEPT)
    tx = hamu_jax.transform(IMPROVEMENT, blocks="global", forget_axis=0, num_requests=3)
    members = jnp.asarray(np.stack([FORGET["group"] == i for i in range(3)]), jnp.float32) / 3

    def forget_losses(params: Any) -> Any:
        return members @ bounded(params, FORGET)

    @functools.partial(jax.jit, compiler_options=PLAIN_COMPILE)
    def step(params: Any, state: Any, batch: Any, present: Any) -> Any:
        mean, gradient = jax.value_and_grad(lambda p: jnp.mean(squared(p, batch)))(params)
        of_forget = jax.jacrev(forget_losses)(params)
        update, state = tx.update(gradient, state, params, forget_grads=of_forget, forget_present=present)
        after = jax.tree.map(lambda x, u: x - rate * u, params, update)
        requests, before = hamu_jax.get_requests(state), forget_losses(params)
        row = {
            "retain_loss": mean,
            "forget_loss": jnp.mean(before, where=present),
            "fraction": requests.fraction[0],
            "least_promised": rate * jnp.min(requests.change, where=present, initial=jnp.inf),
            "forget_promised": rate * jnp.mean(requests.change, where=present),
            "least_measured": jnp.min(forget_losses(after) - before, where=present, initial=jnp.inf),
            "forget_measured": jnp.mean(forget_losses(after) - before, where=present),
        }
        return after, state, row

    params, state = start(), tx.init(start())
    for number in range(STEPS):
        present = jnp.array([True, number < STEPS - 1, True])
        params, state, row = step(params, state, retain[number % 4], present)
        got = result.history.rows[number]
        for name, value in row.items():
            # Differences of float32 losses near 1, and of gradients over some steps; float32 promises to 1e-6 of |g_i| r.
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=2e-6, err_msg=f"{name} at step {number}")
        assert 0 <= got["kkt"] <= 1e-4
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), result.params, params)
    assert np.all(columns(result, "fraction")[0] > 0)


def test_requests_without_groups_and_groups_without_requests() -> None:
    with pytest.raises(ValueError, match="forget_grads"):
        unlearned(many(0.05))
    with pytest.raises(ValueError, match="forget_grads"):
        unlearned(hamu_jax.hamu(0.05, 0.1), forget_groups=GROUPS)


def test_a_number_of_groups_that_is_not_the_optimizers() -> None:
    with pytest.raises(ValueError, match=re.escape("forget_grads: got 4 requests on axis 0, expected 3")):
        unlearned(many(0.05), forget_groups=Groups(GROUPS.of, 4))


@pytest.mark.slow
def test_a_halted_step_says_nothing_of_a_promise() -> None:
    retain = [{"x": RETAIN["x"][:8], "y": RETAIN["y"][:8]}, {"x": RETAIN["x"][:8], "y": np.full(8, np.nan, np.float32)}]
    optimizer = hamu_jax.hamu(0.05, IMPROVEMENT, blocks="global")
    result = hamu_jax.unlearn(
        squared, start(), retain, FORGET, optimizer, forget_loss=bounded, guarantee=Guarantee(), **{**KEPT, "measure_every": 0}
    )
    assert result.status == "nonfinite"
    assert {"step_scale", "guarantee_kept"} <= set(result.history.rows[0])
    assert not {"step_scale", "guarantee_kept", "step_length"} & set(result.history.rows[-1])


def test_the_optimizers_own_state_is_that_of_the_whole_step() -> None:
    tx = optax.chain(hamu_jax.transform(IMPROVEMENT, blocks="global"), optax.trace(0.9), optax.scale(-RATE))
    result = unlearned(tx, guarantee=Guarantee(1.0, 1), steps=1)
    assert result.history.rows[0]["step_scale"] == 0.0
    assert all(np.any(x) for x in jax.tree.leaves(result.state[1]))


def test_where_nothing_is_promised_nothing_is_asked() -> None:
    """A step along which the forget loss falls (HAMU-U, momentum) is taken as it is; it would be refused at any length."""
    before, promised = jnp.ones(1), -0.25 * jnp.ones(1)
    updates, scale, kept = shortened(
        Guarantee(), lambda x: x[None], jnp.float32(1.0), jnp.float32(-0.25), before=before, promised=promised
    )
    assert (float(updates), float(scale), bool(kept)) == (-0.25, 1.0, True)
