"""The choices of a comparison, on invented numbers."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments.comparison import summary
from experiments.comparison.grid import Grid, Setting
from experiments.comparison.summary import Results

PAIRS = FIRST, SECOND = (0, 0), (1, 1)
SPLITS = ("retain", "forget", "validation retain", "validation forget", "test retain", "test forget")


def measured(accuracy: float, kl: float = 1.0) -> dict[str, float]:
    return {f"{split}/{name}": value for split in SPLITS for name, value in (("accuracy", accuracy), ("kl", kl))}


def way(*forget_and_retain: tuple[float, float]) -> dict[str, Any]:
    forget, retain = zip(*forget_and_retain, strict=True)
    return {"test forget": {"accuracy": list(forget)}, "test retain": {"accuracy": list(retain)}}


def results(values: dict[float, list[dict[str, float]]]) -> Results:
    """A method `ft` with a measurement for each learning rate and seed."""
    grid = Grid(("ft",), PAIRS, tuple(values), (0.5,), (0.5,))
    runs = {
        seed: {
            Setting("ft", rate, 0.0): {"measured": of[seed[0]], "status": "completed", "way": way((1.0, 1.0), (0.5, 0.75))}
            for rate, of in values.items()
        }
        for seed in PAIRS
    }
    return Results(grid, {seed: {"full": measured(1.0), "retrained": measured(0.5, 0.0)} for seed in PAIRS}, runs)


def test_the_choice_is_made_on_validation_over_all_seeds() -> None:
    better_on_test = measured(0.9) | {"test retain/accuracy": 0.5, "test forget/accuracy": 0.5}
    found = results({0.1: [measured(0.7), measured(0.7)], 0.2: [measured(0.5), measured(0.95)], 0.3: [better_on_test] * 2})
    assert summary.choose(found, "ft").learning_rate == 0.1
    assert summary.score(found, Setting("ft", 0.2, 0.0))[0] == pytest.approx(0.225)


def test_other_seeds_need_only_what_the_grid_seeds_chose() -> None:
    everywhere = results({0.1: [measured(0.7)] * 2, 0.2: [measured(0.5), measured(0.9)]})
    setting = Setting("ft", 0.2, 0.0)
    found = dataclasses.replace(
        everywhere, runs={**everywhere.runs, SECOND: {setting: everywhere.runs[SECOND][setting]}}, grid_seeds=(FIRST,)
    )
    row = summary.summarise(found)["ft"]
    assert row["setting"]["learning_rate"] == 0.2
    assert row["numbers"]["test retain/accuracy"][0] == pytest.approx(0.7)  # of both seeds
    assert row["numbers"]["hypervolume"][1] is None  # of one


def test_of_equal_gaps_the_lesser_divergence() -> None:
    found = results({0.1: [measured(0.7, 2.0)] * 2, 0.2: [measured(0.3, 0.5), measured(0.7, 0.6)]})
    assert summary.choose(found, "ft").learning_rate == 0.2
    lost = results({0.1: [measured(0.7) | {"validation forget/kl": None}] * 2, 0.2: [measured(0.7, 99.0)] * 2})
    assert summary.choose(lost, "ft").learning_rate == 0.2


def test_a_row_is_mean_and_deviation_over_seeds() -> None:
    row = summary.summarise(results({0.1: [measured(0.6), measured(0.8)], 0.2: [measured(1.0)] * 2}))["ft"]
    assert row["setting"]["learning_rate"] == 0.1
    np.testing.assert_allclose(row["numbers"]["retain/accuracy"], [0.7, np.std([0.6, 0.8], ddof=1)])
    np.testing.assert_allclose(row["numbers"]["gap"], [0.2, np.std([0.1, 0.3], ddof=1)])
    # Everything that (0.5, 0.75) dominates up to nothing kept and all remembered.
    np.testing.assert_allclose(row["numbers"]["hypervolume"], [0.5 * 0.75, 0.0])
    assert row["at the edge"]


def test_a_run_that_ended_early_stays_where_it_ended() -> None:
    found = results({0.1: [measured(0.6)] * 2, 0.2: [measured(0.7)] * 2})
    found.runs[SECOND][Setting("ft", 0.2, 0.0)]["way"] = way((0.9, 0.8))
    np.testing.assert_array_equal(summary.points(found, "ft", SECOND), [[1, 1], [0.5, 0.75], [0.9, 0.8], [0.9, 0.8]])
