"""A run's outcome in words."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from hamu_jax._base.history import History
from hamu_jax._driver.unlearn import Unlearned

Models: TypeAlias = Mapping[str, Mapping[str, float]]


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
) -> str:
    """A paragraph that a manager can read: was it forgotten, what did it cost, where to stop.

    Args:
      result: of `hamu_jax.unlearn`.
      models: as in `write`; numbers are fractions (accuracies).
      retain: the column that says how good a model is at what it should keep.
      forget: the column that says how good it is at what it should forget.
      unlearned: the name of the unlearned model in `models`.
      original: the name of the model before.
      retrained: the name of the model that never saw the forget set, if there is one.
      along: the column of the history in which forgetting was watched: the paragraph names the step at which it fell to
        the retrained model's level.

    Returns:
      The paragraph.
    """
    percent = {name: {column: f"{100 * values[column]:.1f}%" for column in (retain, forget)} for name, values in models.items()}
    goal = models[retrained][forget] if retrained else 0.0
    forgotten = models[unlearned][forget] <= goal + 0.02
    compare = f", a model trained without it on {percent[retrained][forget]}" if retrained else ""
    cost = round(100 * (models[original][retain] - models[unlearned][retain]), 1)
    keeps = f"; the model trained without it has {percent[retrained][retain]}" if retrained else ""
    verdict = "It was forgotten" if forgotten else "It was NOT forgotten"
    price = f"a loss of {cost:.1f} points" if cost > 0 else f"a gain of {-cost:.1f} points" if cost < 0 else "no change"
    return (
        f"**{verdict}.** On new examples of what was to be forgotten, the model is now right on {percent[unlearned][forget]}, "
        f"where it was right on {percent[original][forget]} before{compare}. **The price:** on everything else it is right on "
        f"{percent[unlearned][retain]} of new examples, {percent[original][retain]} before: {price}{keeps}. "
        f"**Where to stop:** {_where_to_stop(result, along, goal)} "
        "This is evidence about these measurements, not a certificate that no trace is left."
    )


def _where_to_stop(result: Unlearned, along: str | None, goal: float) -> str:
    """When forgetting was reached, and from when on the retain loss had to rise."""
    words = [f"the run ended after {result.steps} steps ({result.reason})."]
    history = result.history
    if along is not None:
        steps, values = history.measured(along)
        there = np.flatnonzero(values <= goal + 0.02)
        if there.size:
            words.append(f"The forget level was reached by step {steps[there[0]]}: further steps only deepen it.")
    rising = _rising(history)
    if rising is None:
        words.append("At no step was a rise of the retain loss unavoidable.")
    else:
        words.append(f"From step {rising} on a rise of the retain loss was unavoidable at times: consider stopping there.")
    return " ".join(words)


def _rising(history: History) -> int | None:
    """The first step at which the objective that is not guaranteed had to get worse."""
    return next((row["step"] for row in history.rows if row.get("unavoidable")), None)
