"""What `forget` came to: a status, numbers before and after, and a verdict in words."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from hamu_jax._base import validate
from hamu_jax._base.history import History
from hamu_jax._datasets.evaluate import evaluate
from hamu_jax._driver.fingerprint import combined, of_value
from hamu_jax._driver.forget_problem import MOST_HELD_OUT, ForgetProblem, set_aside, take_rows
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.record import DeletionRecord, build_record
from hamu_jax._driver.unlearn import Unlearned
from hamu_jax.metrics import auc, values

ForgetStatus: TypeAlias = Literal["reached", "reached_at_higher_cost", "not_reached", "nothing_to_do", "nonfinite"]

NOTICEABLE = 0.1  # a rise of the held-out loss, as a share of what it was, that is called a higher cost
CERTAIN = 2.0  # standard errors beyond which the change of a mean is no accident
FEW = 30  # held-out examples below which a standard error says little, and any noticeable rise counts


@dataclasses.dataclass(frozen=True)
class Change:
    """A number before and after unlearning.

    Attributes:
      before: of the original parameters.
      after: of the returned ones.
    """

    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """What `forget` returns.

    Attributes:
      params: the parameters with the smallest held-out loss among those whose forget loss is at the level; if none is, those
        that came nearest.
      status: `"reached"`; `"reached_at_higher_cost"`: the held-out loss rose noticeably; `"not_reached"`;
        `"nothing_to_do"`: the forget loss was at the level already; `"nonfinite"`: losses or gradients were not finite.
      verdict: the outcome in words.
      level: the forget loss that was aimed at; with requests one for each.
      width: how far from the level a forget loss may be to count as forgotten.
      losses: mean losses before and after, by set: `forget`, `retain` (its first 2,048 examples), `held_out`, and `unseen` if
        it was given.
      auc: the probability that an unseen example has a larger loss than a forget example, before and after: 0.5 if they can't
        be told apart. None without unseen data, or without scikit-learn.
      held_out_given: whether the held-out data was given; otherwise it was set aside from the retain set.
      best_step: after how many steps the returned parameters were reached.
      run: the run, with its history: promised and measured changes, the trust region and hardness at every step.
      problem: what `forget` was given: the original parameters, the data sets and the settings.
    """

    params: Any
    status: ForgetStatus
    verdict: str
    level: tuple[float, ...]
    width: tuple[float, ...]
    losses: dict[str, Change]
    auc: Change | None
    held_out_given: bool
    best_step: int
    run: Unlearned
    problem: ForgetProblem = dataclasses.field(repr=False)

    @property
    def history(self) -> History:
        """A row for each step."""
        return self.run.history

    def record(
        self,
        request_id: str,
        *,
        approved_by: str | None = None,
        rows: Sequence[Any] | None = None,
        data: Mapping[str, Any] | None = None,
        previous: DeletionRecord | None = None,
    ) -> DeletionRecord:
        """The deletion record of this outcome: hashes, levels, losses, settings and versions, for `hamu_jax.verify`.

        Args:
          request_id: the ticket, or whatever names the request.
          approved_by: who approved it.
          rows: what identifies the forget rows where they came from (keys of a database), one for each; kept as given.
          data: where the data sets come from: any mapping that JSON can hold.
          previous: the record of the request before this one, whose unlearned parameters these steps began with.

        Returns:
          The record; `record.write(path)` writes it.

        Raises:
          ValueError: if a retain or held-out example is in the forget set too, or was forgotten by the previous request; if
            `previous` was changed, or does not end with the original parameters of this outcome; for values that JSON cannot
            hold, or another number of rows than of forget examples.
        """
        problem = self.problem
        outcome = {
            "status": self.status,
            "verdict": self.verdict,
            "level": list(self.level),
            "width": list(self.width),
            "best_step": self.best_step,
            "steps": self.run.steps,
            "losses": {name: dataclasses.asdict(change) for name, change in self.losses.items()},
            "auc": None if self.auc is None else dataclasses.asdict(self.auc),
            "held_out_given": self.held_out_given,
            "settings": problem.settings,
            "code": {name: combined(of_value(name, x)) for name, x in (("loss", problem.loss), ("requests", problem.requests))},
        }
        sets = {"retain": problem.retain_given, "forget": problem.forget, "unseen": problem.unseen}
        if problem.held_out_given:
            sets["held_out"] = problem.held_out
        else:
            order = np.arange(validate.batch("retain", problem.retain_given))
            outcome["held_out_rows"] = set_aside(order, problem.settings["seed"])[1].tolist()
        return build_record(
            outcome,
            request_id=request_id,
            approved_by=approved_by,
            rows=rows,
            previous=previous,
            params=(problem.params, self.params),
            data=sets,
            source=data,
            history=self.history,
            best_step=self.best_step,
        )


def conclude(problem: ForgetProblem, keep: KeepBest, run: Unlearned) -> Forgotten:
    """Compares the best parameters of a run with the original ones."""
    rows = run.history.rows
    first, best = next(row for row in rows if keep.column in row), keep.best(rows)
    assert best is not None, "the original parameters were evaluated"
    losses = {name: Change(*(_number(row[f"{name}/loss"]) for row in (first, best))) for name in problem.evaluated()}
    losses["retain"] = _retain_change(problem, run.params)
    status = _status(problem, run, keep.rank(best)[0])
    areas = _areas(problem, run.params)
    return Forgotten(
        params=run.params,
        status=status,
        verdict=_verdict(problem, status, losses, areas, run.reason),
        level=tuple(problem.band.level.tolist()),
        width=tuple(problem.band.width.tolist()),
        losses=losses,
        auc=areas,
        held_out_given=problem.held_out_given,
        best_step=best["step"],
        run=run,
        problem=problem,
    )


def _number(value: float | None) -> float:
    """A number of a history row, where what was not finite is None."""
    return math.nan if value is None else value


def _retain_change(problem: ForgetProblem, params: Any) -> Change:
    """The mean loss of the first retain examples."""
    sample = {"retain": take_rows(problem.retain, slice(MOST_HELD_OUT))}
    means = [evaluate(problem.loss, p, sample, batch_size=problem.batch_size)["retain/loss"] for p in (problem.params, params)]
    return Change(*means)


def _status(problem: ForgetProblem, run: Unlearned, rank: int) -> ForgetStatus:
    """The outcome in a word. A higher cost is a rise of the held-out loss that is noticeable and no accident."""
    if problem.is_done:
        return "nothing_to_do"
    if rank > 0:
        return "nonfinite" if run.status == "nonfinite" else "not_reached"
    before, after = (_example_values(problem, params, problem.held_out) for params in (problem.params, run.params))
    rise = after - before
    mean, error = float(np.mean(rise)), float(np.std(rise) / math.sqrt(rise.size))
    is_certain = rise.size < FEW or mean > CERTAIN * error
    higher = is_certain and mean > NOTICEABLE * abs(float(np.mean(before)))
    return "reached_at_higher_cost" if higher else "reached"


def _areas(problem: ForgetProblem, params: Any) -> Change | None:
    """The membership AUC of unseen against forget examples."""
    if problem.unseen is None:
        return None
    areas: list[float] = []
    for parameters in (problem.params, params):
        numbers = [_example_values(problem, parameters, data) for data in (problem.forget, problem.unseen)]
        if not all(np.all(np.isfinite(x)) for x in numbers):
            return None
        try:
            areas.append(auc(*numbers))
        except ImportError:  # scikit-learn is an extra
            return None
    return Change(*areas)


def _example_values(problem: ForgetProblem, params: Any, data: Any) -> Float[np.ndarray, " examples"]:
    """The loss of each example."""
    return values(problem.loss, params, data, batch_size=problem.batch_size)


_OPENINGS: dict[ForgetStatus, str] = {
    "reached": "Forgotten: the forget set now has the loss that was aimed at, and held-out data did not suffer noticeably.",
    "reached_at_higher_cost": "Forgotten, at a price: the forget set has the loss that was aimed at, but the model is worse on "
    "held-out data than before.",
    "not_reached": "NOT forgotten: the forget set did not reach the level.",
    "nothing_to_do": "Nothing was done: the forget set already has the loss of what was never learned.",
    "nonfinite": "NOT forgotten: the run ended because something was not finite.",
}


def _verdict(
    problem: ForgetProblem, status: ForgetStatus, losses: dict[str, Change], areas: Change | None, *reasons: str
) -> str:
    """The outcome in words that need no knowledge of the method."""

    def change(name: str) -> str:
        return f"{losses[name].before:.3g} before, {losses[name].after:.3g} after"

    words = [_OPENINGS[status], f"Forget loss: {change('forget')} ({problem.band.describe()})."]
    words.append(f"Held-out loss: {change('held_out')}. Retain loss: {change('retain')}.")
    if "unseen" in losses:
        words.append(f"Unseen loss: {change('unseen')}.")
    if areas is not None:
        words.append(
            f"Membership AUC of unseen against forget examples: {areas.before:.2f} before, {areas.after:.2f} after (at 0.5 "
            "they can't be told apart by their loss)."
        )
    if status != "nothing_to_do":
        words += [f"The run ended: {reason}." for reason in reasons]
    words.append("This is evidence about these measurements, not a certificate that no trace is left.")
    return " ".join(words)
