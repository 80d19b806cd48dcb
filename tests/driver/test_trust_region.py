"""The trust region by itself: what an error is, and what follows from it."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from hamu_jax import Level, Paired, TrustRegion
from hamu_jax._driver.trust_region import LARGEST, MEMORY, Trial, first_trust, judge, rises_elsewhere

START = first_trust(TrustRegion(0.5))


def trial(forget: tuple[Any, Any], retain: tuple[float, float], elsewhere: float = 0.0, losses: Any = (1.0, 1.0)) -> Trial:
    """Promised and measured changes of both losses."""
    promised, measured = (jnp.atleast_1d(jnp.asarray(x, jnp.float32)) for x in forget)
    return Trial(
        Paired(jnp.float32(losses[0]), jnp.full(promised.shape, losses[1], jnp.float32)),
        Paired(jnp.float32(retain[0]), promised),
        Paired(jnp.float32(retain[1]), measured),
        jnp.float32(elsewhere),
        jnp.ones(promised.shape, bool),
        jnp.zeros(promised.shape, bool),
    )


@pytest.mark.parametrize(
    ("forget", "retain", "error", "accepted", "factor"),
    [
        ((0.3, 0.3), (-0.1, -0.1), 0.0, True, 1.25),
        ((0.3, 0.3), (-0.1, -9.0), 0.0, True, 1.25),  # better for the retain loss than promised is no error
        ((0.3, 0.38), (-0.1, -0.1), 0.2, True, 1.25),
        ((0.3, 0.18), (-0.1, -0.1), 0.3, True, 1.0),
        ((0.3, 0.3), (-0.1, 0.14), 0.6, True, 2 / 3),
        ((0.3, 0.3), (0.3, 0.5), 2 / 3, True, 2 / 3),  # a promised rise of the retain loss makes no error smaller
        ((0.3, 0.75), (-0.1, -0.1), 1.125, False, 0.5),  # a rise beyond the promise is one too
        ((0.3, -0.1), (0.3, 0.3), 4 / 3, False, 0.5),
        ((0.3, 0.3), (-0.1, np.inf), np.nan, False, 0.5),
        ((0.3, np.nan), (-0.1, -0.1), np.nan, False, 0.5),
        (([0.1, 0.3], [0.3, 0.1]), (-0.2, -0.2), 0.5, True, 1.0),  # requests that miss in opposite directions both miss
    ],
)
def test_errors_by_hand(forget: Any, retain: Any, error: float, accepted: bool, factor: float) -> None:
    judgement = judge(START, trial(forget, retain))
    assert judgement.error == pytest.approx(error, abs=1e-5, nan_ok=True)
    assert bool(judgement.accepted) is accepted
    assert judgement.trust.scale == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(
    ("protected", "error"),
    [
        ((0.0, 0.0), 0.0),
        ((0.0, 0.9), 0.0),  # a protected loss may fall by more than was promised
        ((0.0, -0.2), 0.5),  # the second request is for minus the protected loss
        ((0.1, -0.3), 1.0),
    ],
)
def test_a_protected_loss_that_rises_is_an_error_of_its_own(protected: Any, error: float) -> None:
    """It is not averaged with the forget requests, and makes their promised change no larger."""
    step = trial(([0.3, protected[0]], [0.3, protected[1]]), (-0.1, -0.1))
    step = step._replace(asked=jnp.array([True, False]), protected=jnp.array([False, True]))
    size = 0.3 + 0.1
    promised_fall = abs(protected[0])
    assert judge(START, step).error == pytest.approx(error * size / (size + promised_fall), abs=1e-5)


@pytest.mark.parametrize(("shift", "rises"), [(0.0, False), (0.05, False), (0.4, True), (-0.4, False)])
def test_a_rise_elsewhere_is_one_that_chance_does_not_explain(shift: float, rises: bool) -> None:
    """Twenty changes with a spread of 0.2, against the mean and the variance with the same weights in numpy."""
    changes = shift + 0.2 * np.array([1, -1, -1, 1, 1, 1, -1, -1, 1, -1] * 2)
    trust = START
    for change in changes:
        trust = judge(trust, trial((2.0, 2.0), (-0.1, -0.1), change)).trust
    weights = (1 - MEMORY) * MEMORY ** np.arange(len(changes))[::-1]
    mean = weights @ changes
    error = np.sqrt((weights @ changes**2 - mean**2) * np.sum(weights**2) / np.sum(weights) ** 2)
    assert bool(rises_elsewhere(trust)) is rises
    assert (mean > 2 * error) == rises


def test_one_rise_elsewhere_is_no_evidence() -> None:
    assert not rises_elsewhere(START)
    assert not rises_elsewhere(judge(START, trial((2.0, 2.0), (-0.1, -0.1), 0.5)).trust)


def test_what_happens_elsewhere_counts_on_average() -> None:
    """One batch that gets worse may be chance; batches that keep getting worse are not."""
    trust = START
    for rise in (0.5, -0.5, 0.5, -0.5, 0.4, -0.6):
        judgement = judge(trust, trial((0.4, 0.4), (-0.1, -0.1), rise))
        trust = judgement.trust
    assert float(judgement.error) <= 0.25
    for _ in range(12):
        judgement = judge(trust, trial((0.4, 0.4), (-0.1, -0.1), 0.6))
        trust = judgement.trust
    assert not judgement.accepted
    means = np.array([0.0, 0.0])
    for rise in (0.2, 0.1):
        means = MEMORY * means + (1 - MEMORY) * np.array([rise, 0.5])
    one = judge(START, trial((0.4, 0.4), (-0.1, -0.1), 0.2))
    two = judge(one.trust, trial((0.4, 0.4), (-0.1, -0.1), 0.1))
    assert two.error == pytest.approx(means[0] / means[1], rel=1e-5)


def test_a_refused_step_is_not_remembered() -> None:
    judgement = judge(START, trial((0.4, 4.0), (-0.1, -0.1), 9.0))
    assert (float(judgement.trust.elsewhere), float(judgement.trust.promised)) == (0.0, 0.0)


def test_changes_below_rounding_settle() -> None:
    trust = START
    for count in (1, 2, 3):
        trust = judge(trust, trial((1e-7, 3e-7), (-1e-8, 2e-7), losses=(1.0, 2.0))).trust
        assert int(trust.settled) == count
    assert int(judge(trust, trial((0.1, 0.1), (0.0, 0.0))).trust.settled) == 0


def test_the_scale_is_bounded() -> None:
    assert float(judge(first_trust(TrustRegion(LARGEST)), trial((0.3, 0.3), (0.0, 0.0))).trust.scale) == LARGEST


def test_beyond_the_level_no_change_counts() -> None:
    """At a forget loss of 1 and a level of 1.1, of a promised rise of 0.4 only 0.1 makes up for a retain loss that rises."""
    step = trial((0.4, 0.4), (-0.1, 0.2))
    assert judge(START, step).error == pytest.approx(0.3 / 0.5, abs=1e-5)
    assert judge(START, step, Level(1.1)).error == pytest.approx(0.3 / 0.2, abs=1e-5)
    assert judge(START, step, Level(0.9, band=0.2)).error == pytest.approx(0.3 / 0.1, abs=1e-5)
    assert judge(START, step, Level(0.5)).error == pytest.approx(0.3 / 0.1, abs=1e-5)
    fall = trial((-0.4, -0.4), (-0.1, 0.2))
    assert judge(START, fall, Level(0.5)).error == pytest.approx(0.3 / 0.5, abs=1e-5)


def test_more_than_promised_is_no_error_up_to_the_level() -> None:
    """At a forget loss of 1: a rise of 0.5 where 0.1 was promised."""
    step = trial((0.1, 0.5), (-0.1, -0.1))
    assert judge(START, step).error == pytest.approx(0.4 / 0.2, abs=1e-5)
    assert judge(START, step, Level(2.0)).error == pytest.approx(0.0, abs=1e-5)
    assert judge(START, step, Level(1.2)).error == pytest.approx(0.3 / 0.3, abs=1e-5)  # 0.3 above the level
    assert judge(START, step, Level(1.2, band=0.3)).error == pytest.approx(0.0, abs=1e-5)
    short = trial((0.3, 0.1), (-0.1, -0.1))
    assert judge(START, short, Level(2.0)).error == pytest.approx(0.2 / 0.4, abs=1e-5)


@pytest.mark.parametrize("start", [0.0, -1.0, np.nan, np.inf, "long", None])
def test_settings_that_cannot_be(start: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"start: got {start!r}, expected a positive number")):
        TrustRegion(start)
