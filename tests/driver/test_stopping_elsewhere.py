"""A conflict that single batches hide, and that other batches show: it stops a run with a trust region."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax import Stopping, TrustRegion

FEATURES, STEPS = 40, 60
RNG = np.random.default_rng(5)


def squared(weights: Any, batch: Any) -> Any:
    return (batch["x"] @ weights - batch["y"]) ** 2


def noise(size: int, first: int = 0) -> dict[str, np.ndarray]:
    """Targets of pure noise; features before `first` are zero."""
    x = RNG.normal(size=(size, FEATURES)).astype(np.float32)
    x[:, :first] = 0.0
    return {"x": x, "y": RNG.normal(size=size).astype(np.float32)}


# Of one distribution: forgetting must hurt. The retain gradient of a few examples is mostly noise, which hides it.
RETAIN, FORGET = noise(2000), noise(400)


def run(retain: Any, forget: Any, size: int, trust_region: TrustRegion | None, weights: float = 0.02) -> hamu_jax.Unlearned:
    optimizer = hamu_jax.hamu(1.0, 0.2, blocks="global", radius=1.0, distribution="cosine", clip_norm=1.0)
    if trust_region is None:
        optimizer = hamu_jax.hamu(0.02, 0.2, blocks="global", radius=1.0, distribution="cosine", clip_norm=1.0)
    return hamu_jax.unlearn(
        squared,
        jnp.full(FEATURES, weights),
        retain,
        forget,
        optimizer,
        steps=STEPS,
        batch_size=(size, 400),
        stopping=Stopping(unavoidable=3),
        trust_region=trust_region,
        progress=False,
    )


def test_the_whole_retain_set_shows_the_conflict() -> None:
    """What the small batches of the next test hide."""
    result = run(RETAIN, FORGET, 2000, None)
    assert result.status == "unavoidable"
    assert result.reason.endswith("the step must make the objective that is not guaranteed worse")


@pytest.mark.parametrize("size", [4, 16])
def test_batches_that_hide_it_stop_a_run_by_what_happens_elsewhere(size: int) -> None:
    blind = run(RETAIN, FORGET, size, None)
    assert (blind.status, blind.steps) == ("completed", STEPS)
    result = run(RETAIN, FORGET, size, TrustRegion(0.02))
    assert result.status == "unavoidable"
    assert result.reason.endswith("the retain loss rises on batches that had no part in the steps")
    rows = result.history.rows[: result.steps]
    assert not any(row["unavoidable"] for row in rows), "by their own batches, all steps lower the retain loss"
    mean = [float(jnp.mean(squared(weights, RETAIN))) for weights in (jnp.full(FEATURES, 0.02), result.params)]
    assert mean[1] > mean[0]


def test_without_a_conflict_the_run_goes_on() -> None:
    """The forget set has features of its own; the retain loss falls on every batch."""
    retain, forget = noise(2000), noise(400, first=20)
    retain["x"][:, 20:] = 0.0
    assert run(retain, forget, 16, TrustRegion(0.02), weights=1.0).status == "completed"
