"""What a run of `forget` came to: the best parameters compared with the original ones, and a verdict in words."""

import dataclasses
import functools
import math
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from hamu_jax._datasets.evaluate import evaluate
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.unlearn import Unlearned
from hamu_jax._forget.outcome import Change, ForgetStatus, Forgotten
from hamu_jax._forget.problem import MOST_HELD_OUT, ForgetProblem, take_rows
from hamu_jax._forget.record import row_hashes
from hamu_jax._forget.request_losses import request_losses
from hamu_jax._forget.uncertainty import auc_interval, level_error
from hamu_jax.metrics import auc, values

NOTICEABLE = 0.1  # a rise of the held-out or the unseen loss, as a share of what it was, that is called a higher cost
CERTAIN = 2.0  # standard errors beyond which the change of a mean is no accident
FEW = 30  # examples below which a standard error says little, and any noticeable rise counts

Examples: TypeAlias = Float[np.ndarray, " examples"]


def conclude(problem: ForgetProblem, keep: KeepBest, run: Unlearned) -> Forgotten:
    """Compares the best parameters of a run with the original ones."""
    rows = run.history.rows
    first, best = next(row for row in rows if keep.column in row), keep.best(rows)
    assert best is not None, "the original parameters were evaluated"
    comparison = _Comparison(problem, run.params)
    losses = {name: Change(*(_number(row[f"{name}/loss"]) for row in (first, best))) for name in problem.evaluated()}
    losses["retain"] = comparison.retain()
    result = Forgotten(
        params=run.params,
        status=_status(problem, run, keep.rank(best)[0], comparison.worse_on),
        verdict="",
        level=tuple(problem.band.level.tolist()),
        width=tuple(problem.band.width.tolist()),
        level_error=comparison.level_error(),
        losses=losses,
        request_losses=comparison.request_losses(),
        perhaps_worse_on=comparison.perhaps_worse_on,
        shared_rows=comparison.shared_rows(),
        worse_on=comparison.worse_on,
        auc=comparison.auc,
        auc_interval=comparison.auc_interval("after"),
        auc_before_interval=comparison.auc_interval("before"),
        held_out_given=problem.given["held_out"] is not None,
        best_step=best["step"],
        run=run,
        problem=problem,
    )
    return dataclasses.replace(result, verdict=_verdict(result))


def _number(value: float | None) -> float:
    """A number of a history row, where what was not finite is None."""
    return math.nan if value is None else value


def _status(problem: ForgetProblem, run: Unlearned, rank: int, worse_on: tuple[str, ...]) -> ForgetStatus:
    """The outcome in a word."""
    if problem.band.is_reached:
        return "nothing_to_do"
    if rank > 0:
        return "nonfinite" if run.status == "nonfinite" else "not_reached"
    return "reached_at_higher_cost" if worse_on else "reached"


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """The losses of single examples under the original and under the returned parameters."""

    problem: ForgetProblem
    params: Any

    @functools.cached_property
    def examples(self) -> dict[str, tuple[Examples, Examples]]:
        """The losses of the examples of each set, before and after."""
        problem = self.problem
        sets = {"forget": problem.forget, "held_out": problem.held_out, "unseen": problem.unseen}
        return {
            name: (self._values(problem.params, data), self._values(self.params, data))
            for name, data in sets.items()
            if data is not None
        }

    def _values(self, params: Any, data: Any) -> Examples:
        """The loss of each example."""
        return values(self.problem.loss, params, data, batch_size=self.problem.batch_size)

    @functools.cached_property
    def worse_on(self) -> tuple[str, ...]:
        """The sets whose mean loss rose by a noticeable amount that is no accident."""
        return tuple(name for name in self._noticeable() if _is_certain(*self.examples[name]))

    @functools.cached_property
    def perhaps_worse_on(self) -> tuple[str, ...]:
        """The sets whose mean loss rose by a noticeable amount that may be an accident."""
        return tuple(name for name in self._noticeable() if name not in self.worse_on)

    def _noticeable(self) -> list[str]:
        """The sets whose mean loss is noticeably above its limit; 10% of a limit are noticeable."""
        limits = {"held_out": float(np.mean(self.examples["held_out"][0])), "unseen": self.problem.most_unseen}
        after = {name: float(np.mean(self.examples[name][1])) for name in limits if name in self.examples}
        return [name for name, loss in after.items() if loss - limits[name] > NOTICEABLE * abs(limits[name])]

    def request_losses(self) -> tuple[Change, ...]:
        """The mean loss of each request, before and after; none without requests."""
        problem = self.problem
        if problem.requests is None:
            return ()
        after = request_losses(problem.loss, self.params, problem.forget, problem.requests, batch_size=problem.batch_size)
        return tuple(map(Change, problem.band.before.tolist(), after.tolist()))

    def shared_rows(self) -> int:
        """The number of forget examples that are retain examples too."""
        retained = set(row_hashes(self.problem.given["retain"]))
        return sum(row in retained for row in row_hashes(self.problem.forget))

    @functools.cached_property
    def auc(self) -> Change | None:
        """The membership AUC of unseen against forget examples."""
        if "unseen" not in self.examples:
            return None
        pairs = list(zip(self.examples["forget"], self.examples["unseen"], strict=True))
        if not all(np.all(np.isfinite(losses)) for pair in pairs for losses in pair):
            return None
        try:
            return Change(*(auc(*pair) for pair in pairs))
        except ImportError:  # scikit-learn is an extra
            return None

    def auc_interval(self, which: Literal["before", "after"]) -> tuple[float, float] | None:
        """The 95% interval of the AUC of the original or of the returned parameters."""
        sizes = (self.examples[name][1].size for name in ("forget", "unseen"))
        return None if self.auc is None else auc_interval(getattr(self.auc, which), *sizes)

    def level_error(self) -> float | None:
        """The standard error of a level that is the unseen loss; of many requests, that of the mean over all of them."""
        if self.problem.level_given:
            return None
        unseen = self._values(self.problem.params, self.problem.given["unseen"])
        return level_error(unseen, self.examples["forget"][0].size)

    def retain(self) -> Change:
        """The mean loss of the first retain examples."""
        problem, sample = self.problem, {"retain": take_rows(self.problem.retain, slice(MOST_HELD_OUT))}
        options: dict[str, Any] = {"batch_size": problem.batch_size}
        return Change(*(evaluate(problem.loss, p, sample, **options)["retain/loss"] for p in (problem.params, self.params)))


def _is_certain(before: Examples, after: Examples) -> bool:
    """Whether the mean loss rose by more than chance."""
    rise = after - before
    mean, error = float(np.mean(rise)), float(np.std(rise) / math.sqrt(rise.size))
    return mean > 0 if rise.size < FEW else mean > CERTAIN * error


_OPENINGS: dict[ForgetStatus, str] = {
    "reached": "Forgotten: the forget set now has the loss that was aimed at.",
    "reached_at_higher_cost": "Forgotten, at a price: the forget set has the loss that was aimed at.",
    "not_reached": "NOT forgotten: the forget set did not reach the level.",
    "nothing_to_do": "Nothing was done: the loss of the forget set is at the level already, or above it.",
    "nonfinite": "NOT forgotten: the run ended because something was not finite.",
}
_SETS = {"held_out": "held-out data", "unseen": "unseen data, which is of the same kind as the forget set"}


def _verdict(result: Forgotten) -> str:
    """The outcome in words that need no knowledge of the method."""
    words = [_OPENINGS[result.status], *_price(result), *_doubts(result)]
    words.append(f"Forget loss: {_change(result, 'forget')} ({result.problem.band.describe()}).")
    words.append(f"Held-out loss: {_change(result, 'held_out')}. Retain loss: {_change(result, 'retain')}.")
    if "unseen" in result.losses:
        words.append(f"Unseen loss: {_change(result, 'unseen')}.")
    if "protected" in result.losses:
        words.append(f"Loss of the protected unseen examples: {_change(result, 'protected')}.")
    words += _sampling(result)
    if result.status != "nothing_to_do":
        words.append(f"The run ended: {result.run.reason}.")
    words.append("This is evidence about these measurements, not a certificate that no trace is left.")
    return " ".join(words)


def _price(result: Forgotten) -> list[str]:
    """Where the model is worse than before."""
    if result.worse_on:
        return [f"The model is noticeably worse than before on {_names(result.worse_on)}."]
    if result.perhaps_worse_on:
        return [f"The loss rose on {_names(result.perhaps_worse_on)}; with so few examples that may be chance."]
    return ["Held-out data did not suffer noticeably."] if result.status == "reached" else []


def _doubts(result: Forgotten) -> list[str]:
    """What speaks against the question itself, or is left of its answer."""
    words: list[str] = []
    if result.status == "not_reached" and result.request_losses:
        distances = result.problem.band.distances(np.array([change.after for change in result.request_losses]))
        farthest = int(np.argmax(distances))
        after, level = result.request_losses[farthest].after, result.level[farthest]
        words.append(f"The farthest from its level is request {farthest}: its loss is {after:.3g}, its level {level:.3g}.")
    if result.shared_rows:
        count = "One forget example is" if result.shared_rows == 1 else f"{result.shared_rows} forget examples are"
        words.append(f"{count} in the retain set too: they are to be forgotten and retained at once.")
    if result.auc is not None and result.auc_interval is not None and result.status in ("reached", "reached_at_higher_cost"):
        low, high = result.auc_interval
        if not low <= 0.5 <= high:  # noqa: PLR2004  (no difference)
            words.append("Single losses still tell forget and unseen examples apart, although their means agree.")
    if result.auc_before_interval is not None and result.auc_before_interval[1] < 0.5:  # noqa: PLR2004
        words.append(
            "Before, unseen examples had lower losses than the forget set, which the model was trained on: are they of the "
            "same kind?"
        )
    return words


def _names(sets: tuple[str, ...]) -> str:
    """Data sets in words."""
    return " and on ".join(_SETS[name] for name in sets)


def _change(result: Forgotten, name: str) -> str:
    """The mean loss of a set, before and after."""
    return f"{result.losses[name].before:.3g} before, {result.losses[name].after:.3g} after"


def _sampling(result: Forgotten) -> list[str]:
    """What the unseen data say, and how much of it may be chance."""
    words: list[str] = []
    if result.auc is not None and result.auc_interval is not None:
        low, high = result.auc_interval
        words.append(
            f"Membership AUC of unseen against forget examples: {result.auc.before:.2f} before, {result.auc.after:.2f} after "
            f"(95% interval {low:.2f} to {high:.2f}; at 0.5 they can't be told apart by their loss)."
        )
    if result.level_error is not None and math.isfinite(result.level_error):
        words.append(
            "Both sets are samples: the forget loss of a model that was never trained on the forget set would differ from the "
            f"level by about {result.level_error:.2g}."
        )
    return words
