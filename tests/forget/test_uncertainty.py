"""How much of an AUC and of a level may be chance."""

import math

import numpy as np
import pytest

from hamu_jax._forget.uncertainty import NORMAL_95, auc_interval, level_error


@pytest.mark.parametrize(("negatives", "positives"), [(20, 300), (7, 5), (1, 1)])
def test_without_a_difference_it_is_the_interval_of_the_rank_sum(negatives: int, positives: int) -> None:
    """Mann and Whitney 1947: under equal distributions the statistic U / (n m) has the variance (n + m + 1) / (12 n m)."""
    low, high = auc_interval(0.5, negatives, positives)
    error = math.sqrt((negatives + positives + 1) / (12 * negatives * positives))
    assert high - 0.5 == pytest.approx(min(NORMAL_95 * error, 0.5))
    assert 0.5 - low == pytest.approx(high - 0.5)


def test_it_is_the_spread_of_repeated_samples() -> None:
    """Exponential losses, for which the formula is exact: 4,000 pairs of samples."""
    rng = np.random.default_rng(0)
    negatives, positives, ratio = 20, 60, 3.0
    low, high = rng.exponential(1.0, (4000, negatives, 1)), rng.exponential(ratio, (4000, 1, positives))
    areas = (low < high).mean(axis=(1, 2))
    assert areas.mean() == pytest.approx(ratio / (1 + ratio), abs=0.01)
    interval = auc_interval(ratio / (1 + ratio), negatives, positives)
    # The standard deviation of 4,000 numbers is known to about 1%.
    assert (interval[1] - interval[0]) / (2 * NORMAL_95) == pytest.approx(areas.std(), rel=0.05)


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_perfect_separation_is_less_certain_the_fewer_examples_show_it(area: float) -> None:
    """Of one pair nothing is known; the rule of three gives 3 / n, here of 1,000 examples on either side."""
    one_pair, few, many = (np.ptp(auc_interval(area, size, size)) for size in (1, 9, 1000))
    assert one_pair > 0.9 > few > many
    assert many < 3 / 1000
    assert area in auc_interval(area, 9, 9)


def test_the_error_of_a_level_is_that_of_a_difference_of_means() -> None:
    rng = np.random.default_rng(1)
    unseen = rng.normal(2.0, 3.0, 50)
    means = rng.normal(2.0, 3.0, (20000, 8)).mean(axis=1) - rng.normal(2.0, 3.0, (20000, 50)).mean(axis=1)
    assert level_error(unseen, 8) == pytest.approx(means.std() * unseen.std(ddof=1) / 3.0, rel=0.02)
    assert math.isnan(level_error(np.array([1.0]), 8))
