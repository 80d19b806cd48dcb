"""What `forget` returns, and its deletion record."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Int

from hamu_jax._base import validate
from hamu_jax._base.history import History
from hamu_jax._driver.fingerprint import combined, of_value
from hamu_jax._driver.unlearn import Unlearned
from hamu_jax._forget.problem import ForgetProblem, set_aside, split_unseen
from hamu_jax._forget.record import DeletionRecord, build_record

ForgetStatus: TypeAlias = Literal["reached", "reached_at_higher_cost", "not_reached", "nothing_to_do", "nonfinite"]


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
      params: the parameters of the smallest cost (see `forget`) among those whose forget loss is at the level; if none is,
        those that came nearest.
      status: `"reached"`; `"reached_at_higher_cost"`: the held-out or the unseen loss rose noticeably; `"not_reached"`;
        `"nothing_to_do"`: the forget loss was at the level already; `"nonfinite"`: losses or gradients were not finite.
      verdict: the outcome in words.
      level: the forget loss that was aimed at; with requests one for each.
      width: how far from the level a forget loss may be to count as forgotten.
      level_error: the standard error of a level that is the unseen loss: the unseen and the forget set are samples, and a model
        that was never trained on the forget set would miss the level by about as much. None for a level that was given.
      losses: mean losses before and after, by set: `forget`, `retain` (its first 2,048 examples), `held_out`, `unseen` if it
        was given, and `protected`, the part of the unseen data that `protect_unseen` protects.
      request_losses: the mean loss of each request, before and after; none without requests.
      worse_on: the sets, of `held_out` and `unseen`, whose mean loss rose by more than 10% (the unseen loss: above its value
        before, or above a given level that is higher) and by more than two standard errors.
      perhaps_worse_on: the sets whose mean loss rose by more than 10%, but not by more than two standard errors.
      shared_rows: the number of forget examples that are in the retain set too.
      auc: the probability that an unseen example has a larger loss than a forget example, before and after: 0.5 if they can't
        be told apart. None without unseen data, or without scikit-learn.
      auc_interval: a 95% interval of it, after (Hanley and McNeil 1982): where it contains 0.5, no difference was found.
      auc_before_interval: the same before.
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
    level_error: float | None
    losses: dict[str, Change]
    request_losses: tuple[Change, ...]
    worse_on: tuple[str, ...]
    perhaps_worse_on: tuple[str, ...]
    shared_rows: int
    auc: Change | None
    auc_interval: tuple[float, float] | None
    auc_before_interval: tuple[float, float] | None
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
        return build_record(
            self._content(),
            request_id=request_id,
            approved_by=approved_by,
            rows=rows,
            previous=previous,
            params=(self.problem.params, self.params),
            data={name: examples for name, examples in self.problem.given.items() if examples is not None},
            source=data,
            history=self.history,
            best_step=self.best_step,
        )

    def _content(self) -> dict[str, Any]:
        """What a deletion record tells of the outcome, as plain values."""
        problem = self.problem
        seed, given = problem.settings["seed"], problem.given
        content = {
            "status": self.status,
            "verdict": self.verdict,
            "level": list(self.level),
            "level_error": self.level_error,
            "width": list(self.width),
            "best_step": self.best_step,
            "steps": self.run.steps,
            "losses": {name: dataclasses.asdict(change) for name, change in self.losses.items()},
            "request_losses": [dataclasses.asdict(change) for change in self.request_losses],
            "worse_on": list(self.worse_on),
            "perhaps_worse_on": list(self.perhaps_worse_on),
            "auc": None if self.auc is None else dataclasses.asdict(self.auc),
            "auc_interval": None if self.auc_interval is None else list(self.auc_interval),
            "held_out_given": self.held_out_given,
            "settings": problem.settings,
            "code": {name: combined(of_value(name, x)) for name, x in (("loss", problem.loss), ("requests", problem.requests))},
        }
        if not self.held_out_given:
            content["held_out_rows"] = set_aside(_row_numbers(given["retain"]), seed)[1].tolist()
        if problem.protected is not None:
            content["protected_rows"] = split_unseen(_row_numbers(given["unseen"]), seed)[1].tolist()
        return content


def _row_numbers(data: Any) -> Int[np.ndarray, " examples"]:
    """The numbers of the rows of a data set."""
    return np.arange(validate.batch("data", data))
