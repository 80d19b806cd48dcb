"""The trust region in the driver: a bounded forget loss, which bends down, with and without groups of its examples."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import RETAIN, numbers_of, start
from tiny_runs import loss as squared
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import Groups, TrustRegion

RATE, IMPROVEMENT, STEPS = 0.5, 0.3, 6
RNG = np.random.default_rng(11)
FORGET = {
    "x": RNG.normal(size=(9, 3)).astype(np.float32),
    "y": RNG.normal(size=9).astype(np.float32),
    "group": np.arange(9, dtype=np.int32) % 3,
}
KEPT = {"batch_size": (8, 9), "steps": STEPS, "progress": False, "measure_every": 1}
GROUPS = Groups(numbers_of, 3)
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


def test_unlearn_takes_only_steps_that_keep_their_promise() -> None:
    """From far too long a first step on: refused steps leave no trace, and taken ones did what they had promised."""
    result = unlearned(hamu_jax.hamu(RATE, IMPROVEMENT, blocks="global"), trust_region=TrustRegion(64.0), steps=12)
    rows = result.history.rows[:12]
    assert rows[0]["step_accepted"] is False
    assert rows[1]["step_accepted"] is False
    np.testing.assert_allclose([row["step_scale"] for row in rows[:3]], [64.0, 32.0, 16.0])
    assert rows[0]["forget_loss"] == rows[1]["forget_loss"], "nothing was changed"
    taken = [row for row in rows if row["step_accepted"]]
    assert taken
    for row in taken:
        size = abs(row["forget_promised"]) + abs(row["retain_promised"])
        assert abs(row["forget_measured"] - row["forget_promised"]) <= size + NOISE
        assert row["retain_measured"] - row["retain_promised"] <= size + NOISE
        promised = RATE * row["step_scale"] * row["forget_change"]
        np.testing.assert_allclose(row["forget_promised"], promised, rtol=1e-4, atol=1e-7)


def test_a_refused_step_leaves_the_optimizer_as_it_was() -> None:
    tx = optax.chain(hamu_jax.transform(IMPROVEMENT, blocks="global"), optax.trace(0.9), optax.scale(-RATE))
    result = unlearned(tx, trust_region=TrustRegion(1e4), steps=1)
    assert result.history.rows[0]["step_accepted"] is False
    assert not any(np.any(x) for x in jax.tree.leaves(result.state[1]))
    for name, x in start().items():
        np.testing.assert_array_equal(result.params[name], x)


def test_a_loss_that_is_not_finite_further_on_refuses_the_step() -> None:
    def walled(params: Any, batch: Any) -> Any:
        value = bounded(params, batch)
        return jnp.where(jnp.abs(params["b"]) > 1.0, jnp.nan, value)

    options = {"trust_region": TrustRegion(500.0), "forget_loss": walled, "steps": 14}
    result = hamu_jax.unlearn(squared, start(), RETAIN, FORGET, hamu_jax.hamu(RATE, IMPROVEMENT), **{**KEPT, **options})
    assert result.status == "completed"
    assert result.history.rows[0]["step_accepted"] is False
    assert any(row["step_accepted"] for row in result.history.rows[:-1])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(result.params))


def test_a_run_with_nothing_to_gain_ends() -> None:
    """At the minimum of the retain loss, with a forget loss whose gradient is zero."""
    flat = {name: x[:8] for name, x in RETAIN.items()}
    fitted = {"x": flat["x"], "y": np.zeros(8, np.float32)}
    params = jax.tree.map(jnp.zeros_like, start())
    options = {**KEPT, "batch_size": (8, 8), "trust_region": TrustRegion(), "steps": 40}
    result = hamu_jax.unlearn(squared, params, fitted, fitted, hamu_jax.hamu(RATE, IMPROVEMENT), **options)
    assert (result.status, result.steps) == ("converged", 2)


def test_every_request_counts() -> None:
    result = unlearned(many(RATE), trust_region=TrustRegion(), forget_groups=GROUPS)
    least, mean = columns(result, "least_measured", "forget_measured")
    assert np.all(least <= mean + NOISE)
    assert np.any(columns(result, "step_accepted")[0] == 1)


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
    with pytest.raises(ValueError, match="forget_groups"):
        unlearned(many(0.05))
    with pytest.raises(ValueError, match="forget_groups"):
        unlearned(hamu_jax.hamu(0.05, 0.1), forget_groups=GROUPS)


def test_a_number_of_groups_that_is_not_the_optimizers() -> None:
    with pytest.raises(
        ValueError, match=re.escape("forget_groups: got count=4, expected 3 as in the optimizer's num_requests")
    ):
        unlearned(many(0.05), forget_groups=Groups(GROUPS.of, 4))


def test_a_halted_step_says_nothing_of_a_promise() -> None:
    retain = [{"x": RETAIN["x"][:8], "y": RETAIN["y"][:8]}, {"x": RETAIN["x"][:8], "y": np.full(8, np.nan, np.float32)}]
    options = {**KEPT, "measure_every": 0}
    result = hamu_jax.unlearn(squared, start(), retain, FORGET, hamu_jax.hamu(0.05, IMPROVEMENT, blocks="global"), **options)
    assert result.status == "nonfinite"
    assert "step_length" in result.history.rows[0]
    assert "step_length" not in result.history.rows[-1]
