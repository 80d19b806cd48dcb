"""A run's outcome in words."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from hamu_jax._base import validate
from hamu_jax._base.history import History, json_row
from hamu_jax._driver.unlearn import Unlearned

Models: TypeAlias = Mapping[str, Mapping[str, float]]

_LOW = {"loss", "error", "perplexity", "nll", "mse", "rmse", "mae"}
_UNSEEN = re.compile(r"test|validation|held|unseen", re.IGNORECASE)
# By default, absolute for fractions (True), and for other numbers relative to what they are compared with.
_TOLERANCE = {True: 0.02, False: 0.1}
_DAMAGE = {True: 0.05, False: 0.1}
_NOT = "It was NOT forgotten."


@dataclasses.dataclass(frozen=True)
class _Column:
    """A column of the models' table: its numbers, and how they are to be read."""

    name: str
    now: float
    before: float
    never: float | None
    lower_is_better: bool
    fraction: bool

    @property
    def metric(self) -> str:
        """The name without the split."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def examples(self) -> str:
        """What the numbers are about."""
        return "new examples" if _UNSEEN.search(self.name.rsplit("/", 1)[0]) else "examples"

    @property
    def is_accuracy(self) -> bool:
        """Whether a number is a share of right answers."""
        return self.fraction and "accuracy" in self.metric

    @property
    def known(self) -> bool:
        """Whether both numbers are finite."""
        return math.isfinite(self.now) and math.isfinite(self.before)

    def show(self, value: float) -> str:
        """A number in words."""
        return "n/a" if not math.isfinite(value) else f"{100 * value:.1f}%" if self.fraction else f"{value:.3g}"

    def worse(self, value: float, than: float) -> float:
        """How much worse a number is than another, in multiples of the other unless they are fractions: positive if it is."""
        difference = value - than if self.lower_is_better else than - value
        if self.fraction or difference == 0:
            return difference
        return difference / abs(than) if than else math.copysign(math.inf, difference)


def conclude(
    result: Unlearned,
    models: Models,
    *,
    retain: str,
    forget: str,
    unlearned: str,
    original: str,
    retrained: str | None = None,
    along: str | None = None,
    level: float | None = None,
    lower_is_better: Collection[str] | None = None,
    tolerance: float | None = None,
    damage: float | None = None,
) -> str:
    """A paragraph that a manager can read: was the model damaged, was it forgotten, what did it cost, where to stop.

    It begins with the verdict, the first of these that holds:

    - The model was damaged: the retain column got worse by more than `damage`, or a number is not finite.
    - No measurable change: no step was taken, or both columns moved by less than `tolerance`.
    - It was at the level of unseen data before the run: the forget column cannot tell the original model from one that never
      saw the forget set.
    - It was forgotten (within `tolerance` of the level), or too far (beyond it), or NOT forgotten.
    - It is known less well: the column moved, and there is no level to compare it with. Without a level, "forgotten" is said
      only of an accuracy or another fraction that is about 0.

    Args:
      result: of `hamu_jax.unlearn`.
      models: as in `write`.
      retain: the column that says how good a model is at what it should keep.
      forget: the column that says how good it is at what it should forget.
      unlearned: the name of the unlearned model in `models`.
      original: the name of the model before.
      retrained: the name of the model that never saw the forget set, if there is one; its number is the level.
      along: the column of the history in which forgetting was watched, the same metric as `forget`: the paragraph names the
        step at which the level was reached.
      level: the level of the forget column if there is no retrained model: the original model's number on examples of the same
        kind that it never saw.
      lower_is_better: the columns in which small numbers are good. By default those whose metric is called a loss, an error or
        a perplexity. Numbers of the others that are all from 0 to 1 are written as per cent.
      tolerance: how near to the level is at the level, and which changes are not measurable: by default 0.02 for fractions, and
        a tenth of the level or of the number before for all others.
      damage: which change of the retain column for the worse is damage: by default 0.05 for fractions, and a tenth of the
        number before for all others.

    Returns:
      The paragraph. Of Markdown it has only `**bold**`; names and reasons in it are as they were given (`write` escapes them).

    Raises:
      ValueError: for a model or a column that is missing, or `along` of another metric.
    """
    names = {"unlearned": unlearned, "original": original, **({} if retrained is None else {"retrained": retrained})}
    for argument, name in names.items():
        if name not in models:
            raise ValueError(f"{argument}: got {name!r}, expected one of the models {', '.join(map(repr, models))}")
    for argument, number in (("tolerance", tolerance), ("damage", damage)):
        if number is not None:
            validate.number(argument, number)
    chosen = {role: models[name] for role, name in names.items()}
    kept = _column("retain", retain, chosen, lower_is_better)
    gone = _column("forget", forget, chosen, lower_is_better)
    slack = _TOLERANCE[gone.fraction] if tolerance is None else tolerance
    goal = level if gone.never is None else gone.never
    if goal is None and gone.fraction and gone.now <= slack:
        goal = 0.0  # nothing is recognised
    moved = (abs(c.worse(c.now, c.before)) < (_TOLERANCE[c.fraction] if tolerance is None else tolerance) for c in (kept, gone))
    outcome = "No measurable change." if result.steps == 0 or all(moved) else _outcome(gone, goal, slack)
    return " ".join(
        [
            _verdict(kept, gone, _DAMAGE[kept.fraction] if damage is None else damage, outcome),
            _now(gone, level),
            _price(kept),
            f"**Where to stop:** {_where_to_stop(result, along, gone, goal, slack)}",
            "This is evidence about these measurements, not a certificate that no trace is left.",
        ]
    )


def tone(conclusion: str) -> Literal["good", "bad", "neutral"]:
    """Whether a conclusion begins with good or with bad news."""
    if conclusion.startswith("**It was forgotten.**"):
        return "good"
    return (
        "bad" if conclusion.startswith(("**The model was damaged", f"**{_NOT}**", "**It was forgotten too far")) else "neutral"
    )


def _column(argument: str, name: str, models: Models, lower_is_better: Collection[str] | None) -> _Column:
    """A column with what its numbers mean, of the models by their roles."""
    for role, values in models.items():
        if name not in values:
            raise ValueError(f"{argument}: got {name!r}, expected a column of the {role} model: {', '.join(map(repr, values))}")
    numbers = {role: json_row(values)[name] for role, values in models.items()}
    numbers = {role: math.nan if number is None else float(number) for role, number in numbers.items()}
    words = set(re.split("[^a-z]+", name.rsplit("/", 1)[-1].lower()))
    low = bool(words & _LOW) if lower_is_better is None else name in lower_is_better
    fraction = not low and all(0 <= number <= 1 for number in numbers.values() if math.isfinite(number))
    return _Column(name, numbers["unlearned"], numbers["original"], numbers.get("retrained"), low, fraction)


def _outcome(gone: _Column, goal: float | None, slack: float) -> str:
    """Whether it was forgotten, of a run that changed something."""
    if not gone.known:
        return "Whether it was forgotten cannot be said: a number is not finite."
    if goal is None or not math.isfinite(goal):
        less = gone.worse(gone.now, gone.before) >= slack
        return "It is known less well; whether that is enough cannot be said without a level." if less else _NOT
    if gone.worse(gone.now, goal) < -slack:
        return _NOT
    if gone.worse(gone.now, goal) > slack:
        return "It was forgotten too far: a model that never saw it does better."
    return (
        "It was at the level of unseen data before the run." if gone.worse(gone.before, goal) >= -slack else "It was forgotten."
    )


def _verdict(kept: _Column, gone: _Column, limit: float, outcome: str) -> str:
    """The first words."""
    if not (math.isfinite(kept.now) and math.isfinite(gone.now)):
        return "**The model was damaged:** a number is not finite."
    damaged = kept.known and kept.worse(kept.now, kept.before) > limit
    return f"**The model was damaged.** {outcome}" if damaged else f"**{outcome}**"


def _now(gone: _Column, level: float | None) -> str:
    """The forget column, of the model after, before and of one that never saw it."""
    now, before = gone.show(gone.now), gone.show(gone.before)
    never = None if gone.never is None else gone.show(gone.never)
    unseen = None if level is None or gone.never is not None else gone.show(level)
    start = f"On {gone.examples} of what was to be forgotten,"
    if gone.is_accuracy:
        compare = f", a model trained without it on {never}" if never else f", and on {unseen} of unseen ones" if unseen else ""
        return f"{start} the model is now right on {now}, where it was right on {before} before{compare}."
    compare = f", that of a model trained without it {never}" if never else f", that of unseen ones {unseen}" if unseen else ""
    return f"{start} its {gone.metric} is now {now}, where it was {before} before{compare}."


def _price(kept: _Column) -> str:
    """The retain column, after and before."""
    now, before = kept.show(kept.now), kept.show(kept.before)
    start = f"its {kept.metric} is {now}"
    if kept.is_accuracy:
        start = f"it is right on {now} of {kept.examples}"
    never = "" if kept.never is None else f"; the model trained without it has {kept.show(kept.never)}"
    return f"**The price:** on everything else {start}, {before} before: {_change(kept)}{never}."


def _change(kept: _Column) -> str:
    """The change of the retain column."""
    if not kept.known or (kept.before == 0 and not kept.fraction and kept.now != 0):
        return "a change that has no number"
    if kept.fraction:
        cost = round(100 * (kept.before - kept.now), 1)
        return f"a loss of {cost:.1f} points" if cost > 0 else f"a gain of {-cost:.1f} points" if cost < 0 else "no change"
    share = 0.0 if kept.now == kept.before else 100 * (kept.now - kept.before) / abs(kept.before)
    return f"a rise of {share:.3g}%" if share > 0 else f"a fall of {-share:.3g}%" if share < 0 else "no change"


def _where_to_stop(result: Unlearned, along: str | None, gone: _Column, goal: float | None, slack: float) -> str:
    """When forgetting was reached, and from when on the retain loss had to rise."""
    words = [f"the run ended after {result.steps} steps ({result.reason})."]
    if along is not None:
        words += _reached(result.history, along, gone, goal, slack)
    rising = next((row["step"] for row in result.history.rows if row.get("unavoidable")), None)
    if rising is not None:
        words.append(f"From step {rising} on a rise of the retain loss was unavoidable at times: consider stopping there.")
    elif result.steps > 0:
        words.append("At no step was a rise of the retain loss unavoidable.")
    return " ".join(words)


def _reached(history: History, along: str, gone: _Column, goal: float | None, slack: float) -> list[str]:
    """The step at which the level was reached, if there is a level and it was."""
    if along.rsplit("/", 1)[-1] != gone.metric:
        raise ValueError(f"along: got {along!r}, expected a column of the same metric as {gone.name!r}")
    wanted = 0.0 if goal is None and gone.fraction else goal
    if wanted is None or not math.isfinite(wanted):
        return []
    steps, values = history.measured(along)
    there = steps[[gone.worse(value, wanted) >= -slack for value in values.tolist()]]
    if there.size == 0:
        return []
    if there[0] == 0:
        return ["The forget level was reached before the first step."]
    return [f"The forget level was reached by step {there[0]}: further steps only deepen it."]
