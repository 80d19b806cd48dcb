"""When a run stops: conditions that the step itself watches, and conditions on what was evaluated."""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from hamu_jax._base import validate
from hamu_jax._base.history import Row
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._gradients.paired import Paired
from hamu_jax._kernel.hardness import Hardness

Status = Literal[
    "completed", "ineffective", "nonfinite", "unavoidable", "criterion", "infeasible", "target", "patience", "converged"
]


class Halt(enum.IntEnum):
    """Why the jitted step ended the run; the order is the precedence."""

    RUNNING = 0
    NONFINITE = 1
    TARGET = 2
    UNAVOIDABLE = 3
    ELSEWHERE = 4
    CRITERION = 5
    INFEASIBLE = 6
    CONVERGED = 7


@dataclasses.dataclass(frozen=True)
class Target:
    """Stop when a number reaches a target.

    Attributes:
      column: `retain_loss` or `forget_loss` (of the batch, watched at every step), or an evaluated `split/metric`.
      at_least: stop at this value or above.
      at_most: stop at this value or below.
    """

    column: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        check_column(self.column)
        for name in ("at_least", "at_most"):
            if getattr(self, name) is not None:
                validate.finite(name, getattr(self, name))
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(
                f"Target({self.column!r}): got at_least={self.at_least}, at_most={self.at_most}, expected one of them"
            )

    def reached(self, value: Any) -> Any:
        """Whether a value, traced or not, has reached the target."""
        return value >= self.at_least if self.at_least is not None else value <= self.at_most


@dataclasses.dataclass(frozen=True)
class Patience:
    """Stop when an evaluated metric has not improved for a while.

    Attributes:
      column: an evaluated `split/metric`.
      evaluations: how many evaluations in a row may pass without a new best.
      mode: whether the metric should be small (`"min"`) or large (`"max"`).
    """

    column: str
    evaluations: int
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        check_column(self.column)
        validate.integer("evaluations", self.evaluations)
        validate.choice("mode", self.mode, ("min", "max"), "'min' or 'max'")

    def exhausted(self, rows: Sequence[Row]) -> bool:
        """Whether none of the last evaluations beat the best before them; a value that is not finite never does."""
        worst = math.inf if self.mode == "min" else -math.inf
        numbers = [row[self.column] for row in rows if self.column in row]
        values = [worst if number is None or math.isnan(number) else number for number in numbers]
        if len(values) <= self.evaluations:
            return False
        before, after = values[: -self.evaluations], values[-self.evaluations :]
        return min(after) >= min(before) if self.mode == "min" else max(after) <= max(before)


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When to stop, always before the step that meets the condition. Non-finite numbers stop a run in any case.

    Attributes:
      unavoidable: stop after this number of steps in a row that must make the objective that is not guaranteed worse. None:
        never. It is judged by the step's own batches, whose gradients differ by chance: a conflict that only larger samples
        show is missed. With a trust region (`unlearn(trust_region=)`) a step counts as well while the retain loss of other
        batches rises: by more than was promised, and on the mean over the last steps by more than two standard errors.
      criterion: the same for the paper's criterion (see `Hardness.stopping_criterion`; it ignores the sign of kappa).
      infeasible: the same for steps in which no block can meet its share within its radius.
      targets: stop as soon as one of these is reached.
      patience: stop when an evaluated metric no longer improves.
    """

    unavoidable: int | None = None
    criterion: int | None = None
    infeasible: int | None = None
    targets: tuple[Target, ...] = ()
    patience: Patience | None = None

    def __post_init__(self) -> None:
        for name in ("unavoidable", "criterion", "infeasible"):
            if getattr(self, name) is not None:
                validate.integer(name, getattr(self, name))
        if not isinstance(self.targets, (tuple, list)):  # pyright: ignore[reportUnnecessaryIsInstance]: callers are not all typed
            raise TypeError(f"targets: got {validate.shown(self.targets)}, expected a tuple of Target: targets=(Target(...),)")
        for i, target in enumerate(self.targets):
            validate.instance(f"targets[{i}]", target, Target)
        validate.instance("patience", self.patience, Patience, optional=True)


def check_column(column: Any) -> None:
    """Checks the name of a column."""
    if not isinstance(column, str):
        raise TypeError(f"column: got {validate.shown(column)}, expected a column's name, such as 'forget_loss' or 'test/loss'")


def watch(
    stopping: Stopping,
    losses: Paired[Array],
    hardness: Hardness,
    streaks: Int[Array, "3"],
    *,
    finite: Bool[Array, ""],
    rises: Bool[Array, ""],
) -> tuple[Int[Array, ""], Int[Array, "3"]]:
    """The step's own decision, inside jit: a `Halt`, and how long each condition has held.

    Args:
      stopping: the conditions.
      losses: both losses of the step's batches.
      hardness: of the step.
      streaks: for how many steps in a row each condition has held before.
      finite: whether everything is finite.
      rises: whether the retain loss rises on batches that had no part in the steps.
    """
    now = jnp.stack([hardness.unavoidable | rises, hardness.stopping_criterion, ~jnp.any(hardness.feasible)])
    streaks = jnp.where(now, streaks + 1, 0)
    reached = [target.reached(getattr(losses, name)) for target in stopping.targets if (name := _batch_loss(target))]
    checks = [
        (Halt.NONFINITE, ~finite),
        (Halt.TARGET, jnp.any(jnp.stack(reached)) if reached else jnp.bool_(False)),
        (Halt.UNAVOIDABLE, hardness.unavoidable & _lasted(streaks[0], stopping.unavoidable)),
        (Halt.ELSEWHERE, _lasted(streaks[0], stopping.unavoidable)),
        (Halt.CRITERION, _lasted(streaks[1], stopping.criterion)),
        (Halt.INFEASIBLE, _lasted(streaks[2], stopping.infeasible)),
    ]
    halt = jnp.int32(Halt.RUNNING)
    for code, condition in reversed(checks):
        halt = jnp.where(condition, jnp.int32(code), halt)
    return halt, streaks


def after_evaluation(stopping: Stopping, rows: Sequence[Row], keep: KeepBest | None = None) -> tuple[Status, str] | None:
    """The decision on the last row's evaluation, outside jit: a status and a reason, or None."""
    row = rows[-1]
    for target in stopping.targets:
        value = None if _batch_loss(target) else row.get(target.column)
        if value is not None and target.reached(value):
            return "target", f"{target.column} reached {value:.4g}"
    if keep is not None and keep.column in row and keep.exhausted(rows):
        return "patience", f"no better point than the best acceptable one for {keep.patience} evaluations"
    if stopping.patience is not None and stopping.patience.column in row and stopping.patience.exhausted(rows):
        return "patience", f"{stopping.patience.column} has not improved for {stopping.patience.evaluations} evaluations"
    return None


def after_halt(halt: Halt) -> tuple[Status, str]:
    """A status and a reason for a `Halt`."""
    reasons: dict[Halt, tuple[Status, str]] = {
        Halt.NONFINITE: ("nonfinite", "something is not finite"),
        Halt.TARGET: ("target", "a loss reached its target"),
        Halt.UNAVOIDABLE: ("unavoidable", "the step must make the objective that is not guaranteed worse"),
        Halt.ELSEWHERE: ("unavoidable", "the retain loss rises on batches that had no part in the steps"),
        Halt.CRITERION: ("criterion", "the paper's stopping criterion holds"),
        Halt.INFEASIBLE: ("infeasible", "no block can meet its share of the required improvement within its radius"),
        Halt.CONVERGED: ("converged", "steps promise less than the rounding of the losses: there is nothing left to gain"),
    }
    return reasons[halt]


def check_columns(stopping: Stopping, keep: KeepBest | None, evaluated: Sequence[str]) -> None:
    """Checks that the columns that stop a run will be measured.

    Raises:
      ValueError: naming the column and the available ones.
    """
    columns = [target.column for target in stopping.targets if not _batch_loss(target)]
    columns += [stopping.patience.column] if stopping.patience else []
    for column in columns:
        if column not in evaluated:
            available = ", ".join(("retain_loss", "forget_loss", *evaluated))
            raise ValueError(f"stopping: got column {column!r}, expected one of {available}")
    for column in () if keep is None else keep.columns():
        if column not in evaluated:
            available = ", ".join(evaluated) or "those of an evaluation, which is None"
            raise ValueError(f"keep: got column {column!r}, expected one of {available}")


def _lasted(streak: Array, limit: int | None) -> Array:
    """Whether a condition has held for `limit` steps in a row."""
    return jnp.bool_(False) if limit is None else streak >= limit


def _batch_loss(target: Target) -> str:
    """`retain` or `forget` if the target is a batch's loss, else an empty string."""
    return {"retain_loss": "retain", "forget_loss": "forget"}.get(target.column, "")
