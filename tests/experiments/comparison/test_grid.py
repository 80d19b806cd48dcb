"""The grid of a comparison: as many settings for every method, and what happens at its edges."""

import dataclasses

import numpy as np
import pytest

from experiments.comparison.config import SweepSettings
from experiments.comparison.grid import Setting, grid_of, searched
from experiments.digits.config import GRID
from experiments.methods import FORGET_CALLS, METHODS

PAIRS = ((0, 0),)
FEW = SweepSettings(learning_rates=(0.01, 0.1), improvements=(0.2, 0.5, 0.8), weights=(0.05, 0.15, 0.5))


@pytest.mark.parametrize("sweep", [GRID, SweepSettings(), SweepSettings(smoke=True).reduced()])
def test_every_method_has_the_same_number_of_settings(sweep: SweepSettings) -> None:
    grid = grid_of((*METHODS, *FORGET_CALLS), PAIRS, sweep)
    for some in (grid, grid.extended(low=True, high=False)):
        counts = {name: sum(setting.method == name for setting in some.settings()) for name in METHODS}
        assert set(counts.values()) == {len(some.learning_rates) * len(sweep.weights)}
    assert sum(setting.method in FORGET_CALLS for setting in grid.settings()) == len(FORGET_CALLS)


def test_at_least_five_learning_rates_on_a_logarithmic_grid() -> None:
    rates = [setting.learning_rate for setting in grid_of(("ft",), PAIRS, GRID).settings()]
    assert len(GRID.learning_rates) >= 5
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(100) / 12, rtol=0.15)  # 0.03 is not quite half a decade


def test_the_grid_is_extended_for_all_until_no_choice_is_at_its_edge() -> None:
    """One method is best at 1, beyond the highest of 0.1, the other at 0.01, the lowest; both get all that either needs."""
    names, asked = ("gdiff", "hamu-q"), []
    best = {"gdiff": 1.0, "hamu-q": 0.01}

    def choose(name: str) -> Setting:
        some = [setting for setting in asked if setting.method == name]
        return min(some, key=lambda setting: abs(np.log(setting.learning_rate / best[name])))

    grid, chosen = searched(grid_of(names, PAIRS, FEW), asked.extend, choose, extensions=5)
    assert grid.learning_rates == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert [setting.learning_rate for setting in chosen] == [1.0, 0.01]
    assert len(asked) == len(set(asked)) == len(grid.settings()) == 30
    assert searched(grid_of(names, PAIRS, FEW), asked.extend, choose, extensions=0)[0].learning_rates == (0.01, 0.1)


def test_a_choice_that_does_not_count_extends_nothing() -> None:
    first = grid_of(("ft",), PAIRS, FEW)
    highest = first.settings()[-1]
    grid, _ = searched(first, lambda _: None, lambda _: highest, extensions=3, counts=lambda _: False)
    assert first.edge(highest) == 1
    assert grid == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rates": ()}, r"learning_rates: got \(\), expected positive numbers in ascending order"),
        ({"learning_rates": (0.1, 0.01)}, "learning_rates: got .*, expected positive numbers in ascending order"),
        ({"weights": (0.5,)}, r"weights: got \(0.5,\), expected as many as improvements, \(0.2, 0.5, 0.8\)"),
    ],
)
def test_a_grid_is_checked(changed: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_of(("ft",), PAIRS, dataclasses.replace(FEW, **changed))
