"""Which of several runs are worth a look: two numbers each, such as how good on retain and how well forgotten.

By moocore, which takes NaN for an ordinary number: so numbers are checked here.
"""

from typing import Any

import moocore
import numpy as np
from jaxtyping import Float, Int

Maximise = tuple[bool, bool]


def pareto_front(points: Float[Any, "runs 2"], *, maximise: Maximise = (False, False)) -> Int[np.ndarray, " front"]:
    """The runs that no other run beats: none is as good in both numbers and better in one.

    Args:
      points: `[runs, 2]`, finite.
      maximise: whether larger is better, for either number.

    Returns:
      Their row numbers, ordered by the first number and, of those that are equal in it, as they came.

    Raises:
      ValueError: if the points are not `[runs, 2]`, or not finite.

    Example:
      >>> print(pareto_front([[3.0, 1.0], [1.0, 2.0], [3.0, 3.0]]))
      [1 0]
    """
    array = _checked(points)
    rows = np.flatnonzero(moocore.is_nondominated(array, maximise=maximise, keep_weakly=True))
    return rows[np.argsort(array[rows, 0], kind="stable")]


def hypervolume(points: Float[Any, "runs 2"], reference: Float[Any, " 2"], *, maximise: Maximise = (False, False)) -> float:
    """The area between the front and a reference point: how much of the plane at least one run is at least as good as.

    Args:
      points: `[runs, 2]`, finite. Those that are not better than the reference in both numbers add nothing.
      reference: `[2]`, the worst that is still of interest. Areas can be compared only for the same one, and scale with the
        units of both numbers.
      maximise: whether larger is better, for either number.

    Returns:
      The area, 0 if no run is better than the reference.

    Raises:
      ValueError: if points or reference have another shape, or are not finite.

    Example:
      >>> hypervolume([[3.0, 1.0], [1.0, 2.0]], [4.0, 4.0])
      7.0
    """
    corner = np.asarray(reference, np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"reference: got {reference}, expected two finite numbers")
    return float(moocore.hypervolume(_checked(points), corner, maximise=maximise))


def _checked(points: Float[Any, "runs 2"]) -> Float[np.ndarray, "runs 2"]:
    """The points in float64."""
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not array.size:  # noqa: PLR2004
        raise ValueError(f"points: got shape {array.shape}, expected [runs, 2], with at least one run")
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if wrong.size:
        raise ValueError(f"points[{wrong[0]}]: got {array[wrong[0]]}, expected finite numbers")
    return array
