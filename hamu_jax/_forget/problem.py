"""What `forget` is given: the model, the data sets, and the level that the forget set is to reach."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from hamu_jax._base import validate
from hamu_jax._datasets.evaluate import evaluate
from hamu_jax._forget.band import Band, band_of
from hamu_jax._forget.evaluation import ForgetEvaluation
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss
from hamu_jax._transform.level import Level

HELD_OUT, MOST_HELD_OUT = 0.1, 2048  # the share of the retain set that is set aside, and the most examples
PROTECTED = 0.5  # the share of the unseen data that is protected, if it is
SHORTEST, EVALUATED = 5, 0.5  # steps between evaluations; examples evaluated per example that a step differentiates


@dataclasses.dataclass(frozen=True)
class ForgetProblem:
    """A model, its data sets, and the level that the forget set is to reach.

    Attributes:
      loss: `loss(params, batch) -> [batch]`.
      params: the original parameters.
      given: the data sets as they were given: `retain`, `forget`, `held_out` and `unseen`, the last two possibly None.
      retain: the retain set, without what was set aside.
      held_out: the data by which the best parameters are chosen.
      unseen: unseen data that only measures, or None.
      protected: unseen data whose loss no step may raise, or None.
      requests: the requests that the forget examples belong to, or None.
      band: the forget losses that count as forgotten.
      level_given: whether the level was given; otherwise it is the unseen loss.
      batch_sizes: examples of the retain and the forget set in a batch; the first is also the number evaluated at once.
      settings: the other arguments of `forget`, as plain values.
    """

    loss: Loss
    params: Any
    given: dict[str, Any]
    retain: Any
    held_out: Any
    unseen: Any
    protected: Any
    requests: Groups | None
    band: Band
    level_given: bool
    batch_sizes: tuple[int, int]
    settings: dict[str, Any]

    @property
    def forget(self) -> Any:
        """The forget set."""
        return self.given["forget"]

    @property
    def batch_size(self) -> int:
        """Examples evaluated at once."""
        return self.batch_sizes[0]

    def evaluated(self) -> dict[str, Any]:
        """The sets that are evaluated on the way."""
        sets = {"forget": self.forget, "held_out": self.held_out, "unseen": self.unseen, "protected": self.protected}
        return {name: data for name, data in sets.items() if data is not None}

    def evaluation(self) -> ForgetEvaluation:
        """What is evaluated, seldom enough that it costs less than the steps."""
        examples = sum(validate.batch(name, data) for name, data in self.evaluated().items())
        every = max(SHORTEST, math.ceil(EVALUATED * examples / sum(self.batch_sizes)))
        return ForgetEvaluation(
            self.evaluated(),
            every=every,
            batch_size=self.batch_size,
            band=self.band,
            requests=self.requests,
            most_unseen=self.most_unseen,
        )

    def mean_loss(self, data: Any) -> float:
        """The mean loss of a data set under the original parameters."""
        return evaluate(self.loss, self.params, {"data": data}, batch_size=self.batch_size)["data/loss"]

    @functools.cached_property
    def most_unseen(self) -> float:
        """The largest unseen loss that costs nothing: where it was, or a level above it that was given."""
        before = math.inf if self.unseen is None else self.mean_loss(self.unseen)
        return max(before, float(self.band.level.max())) if self.level_given else before

    def target(self) -> Level:
        """The level of each request, and of the protected examples: minus their loss may not fall below where it is."""
        levels, above = self.band.level.tolist(), self.band.above.tolist()
        if self.protected is not None:
            levels.append(-self.mean_loss(self.protected))
            above.append(math.inf)
        if self.requests is None and self.protected is None:
            return Level(levels[0], band=above[0])
        return Level(tuple(levels), band=tuple(above))


def build_problem(
    loss: Loss,
    params: Any,
    given: dict[str, Any],
    *,
    level: Any,
    requests: Groups | None,
    batch_sizes: tuple[int, int],
    settings: dict[str, Any],
) -> ForgetProblem:
    """Sets the held-out and the protected examples aside, and measures the level.

    Raises:
      ValueError: for a data set of one example that is to be divided, or as `band_of`.
    """
    seed, unseen = settings["seed"], given["unseen"]
    band = band_of(level, settings["tolerance"], requests, loss=loss, params=params, given=given, batch_size=batch_sizes[0])
    retain, held_out = given["retain"], given["held_out"]
    if held_out is None:
        retain, held_out = set_aside(retain, seed)
    unseen, protected = split_unseen(unseen, seed) if settings["protect_unseen"] else (unseen, None)
    return ForgetProblem(
        loss=loss,
        params=params,
        given=given,
        retain=retain,
        held_out=held_out,
        unseen=unseen,
        protected=protected,
        requests=requests,
        band=band,
        level_given=level is not None,
        batch_sizes=batch_sizes,
        settings=settings,
    )


def take_rows(data: Any, rows: Any) -> Any:
    """Some rows of a data set."""
    return jax.tree.map(lambda x: x[rows], data)


def set_aside(retain: Any, seed: int) -> tuple[Any, Any]:
    """The retain set in two: what steps may see, and the held-out part.

    Raises:
      ValueError: for a retain set of one example.
    """
    return _divided("retain", retain, (seed, 2), HELD_OUT, "one is set aside, since held_out is None")


def split_unseen(unseen: Any, seed: int) -> tuple[Any, Any]:
    """The unseen data in two: what only measures, and the protected part.

    Raises:
      ValueError: for unseen data of one example.
    """
    return _divided("unseen", unseen, (seed, 3), PROTECTED, "one is protected, and one measures")


def _divided(name: str, data: Any, seed: tuple[int, int], share: float, reason: str) -> tuple[Any, Any]:
    """A data set in two, at random; the second part has the share, at least one example and at most `MOST_HELD_OUT`."""
    size = validate.batch(name, data)
    if size < 2:  # noqa: PLR2004  (one for each part)
        raise ValueError(f"{name}: got {size} example, expected at least 2: {reason}")
    count = min(max(int(share * size), 1), MOST_HELD_OUT)
    order = np.random.default_rng(seed).permutation(size)
    return take_rows(data, np.sort(order[count:])), take_rows(data, np.sort(order[:count]))
