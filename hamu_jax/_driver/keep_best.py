"""Which of the evaluated parameters a run returns: the best, not the last."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from hamu_jax._base import validate
from hamu_jax._base.history import Row

Rank = tuple[int, float]


@dataclasses.dataclass(frozen=True)
class KeepBest:
    """Return the best parameters that were evaluated, in the place of the last.

    Of the evaluations with `among` at 0 or below, the one with the smallest `column` is best. If there is none, it is the one
    with the smallest `among`. An evaluation with `column` above `at_most` comes after all others.

    Attributes:
      column: an evaluated `split/metric` that should be small, such as the loss of held-out retain data.
      among: an evaluated column that is at most 0 where a point is acceptable. None: every point is.
      at_most: the largest acceptable value of `column`. None: any.
      patience: end the run after this number of evaluations without a better point, once one was acceptable. None: never.

    Raises:
      ValueError: if `patience` is not a positive whole number.
    """

    column: str
    among: str | None = None
    at_most: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None:
            validate.integer("patience", self.patience)

    def columns(self) -> tuple[str, ...]:
        """The columns that must be evaluated."""
        return (self.column,) if self.among is None else (self.column, self.among)

    def rank(self, row: Row) -> Rank:
        """How good a row is: smaller is better. The first number is 0 for an acceptable point."""
        cost = _number(row.get(self.column))
        distance = 0.0 if self.among is None else _number(row.get(self.among))
        if math.isnan(cost) or math.isnan(distance):
            return 3, 0.0
        if self.at_most is not None and cost > self.at_most:
            return 2, cost
        return (0, cost) if distance <= 0 else (1, distance)

    def best(self, rows: Sequence[Row]) -> Row | None:
        """The best evaluated row, the first of several that are equally good."""
        evaluated = [row for row in rows if self.column in row]
        return min(evaluated, key=self.rank, default=None)

    def exhausted(self, rows: Sequence[Row]) -> bool:
        """Whether the last evaluations all missed an acceptable point before them."""
        evaluated = [row for row in rows if self.column in row]
        best = self.best(evaluated)
        if best is None or self.patience is None or self.rank(best)[0] > 0:
            return False
        return len(evaluated) - 1 - evaluated.index(best) >= self.patience


def _number(value: Any) -> float:
    """A number of a row; NaN where it is missing or was not finite."""
    return math.nan if value is None else float(value)
