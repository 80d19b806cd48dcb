"""Fronts and their areas, against comparing all pairs and counting the cells of a grid."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.comparison.pareto import hypervolume, pareto_front

GRID = 6
COORDINATE = st.integers(0, GRID)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=12)  # on a grid: ties and duplicates
DIRECTIONS = st.tuples(st.booleans(), st.booleans())


def as_losses(points: Any, maximise: Any) -> Any:
    return np.asarray(points, float) * np.where(maximise, -1, 1)


@given(POINTS, DIRECTIONS)
def test_no_run_beats_one_of_the_front(points: Any, maximise: Any) -> None:
    losses = as_losses(points, maximise)

    def beaten(i: int) -> bool:
        return any(np.all(other <= losses[i]) and np.any(other < losses[i]) for other in losses)

    front = pareto_front(points, maximise=maximise)
    assert sorted(front) == [i for i in range(len(points)) if not beaten(i)]
    assert np.all(np.diff(np.asarray(points)[front, 0]) >= 0)


@given(POINTS, DIRECTIONS, st.tuples(COORDINATE, COORDINATE))
def test_the_area_is_that_of_the_cells_that_a_run_beats(points: Any, maximise: Any, reference: Any) -> None:
    losses, corner = as_losses(points, maximise), as_losses(reference, maximise)
    middles = np.array(list(itertools.product(np.arange(-GRID, GRID) + 0.5, repeat=2)))
    inside = np.all(middles < corner, axis=1)
    beaten = np.any(np.all(losses[:, None] < middles[None], axis=2), axis=0)
    assert hypervolume(points, reference, maximise=maximise) == np.sum(inside & beaten)


def test_scale_and_place() -> None:
    points, reference = np.random.default_rng(0).random((9, 2)), np.array([1.1, 1.2])
    area = hypervolume(points, reference)
    np.testing.assert_allclose(
        hypervolume(points * [2, 1e-3] + [5, -3], reference * [2, 1e-3] + [5, -3]), 2e-3 * area, rtol=1e-9
    )
    front = pareto_front(points)
    np.testing.assert_allclose(hypervolume(points[front], reference), area, rtol=1e-12)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "points: got shape (0,), expected [runs, 2], with at least one run"),
        (np.zeros((0, 2)), "points: got shape (0, 2), expected"),
        ([[1.0, 2.0, 3.0]], "points: got shape (1, 3), expected"),
        ([[1.0, 2.0], [np.nan, 1.0]], "points[1]: got [nan  1.], expected finite numbers"),
        ([[1.0, np.inf]], "points[0]: got [ 1. inf], expected finite numbers"),
    ],
)
def test_errors(points: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pareto_front(points)
    with pytest.raises(ValueError, match=re.escape(message)):
        hypervolume(points, [4.0, 4.0])


@pytest.mark.parametrize("reference", [[1.0], [[1.0, 2.0]], [1.0, np.nan], 3.0])
def test_the_reference_is_a_point(reference: Any) -> None:
    with pytest.raises(ValueError, match="reference: got"):
        hypervolume([[1.0, 2.0]], reference)
