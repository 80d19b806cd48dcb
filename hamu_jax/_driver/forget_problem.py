"""What `forget` is given, and how far the forget set is from its level."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax._datasets.evaluate import Evaluation, evaluate
from hamu_jax._datasets.profiles import profile
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss, example_weights, per_example
from hamu_jax._transform.level import Level

OUTSIDE = "forget/outside"
HELD_OUT, MOST_HELD_OUT = 0.1, 2048  # the share of the retain set that is set aside, and the most examples
SHORTEST, EVALUATED = 5, 0.5  # steps between evaluations; examples evaluated per example that a step differentiates


@dataclasses.dataclass(frozen=True)
class Band:
    """The forget losses that count as forgotten: `level` up to `width` on either side.

    Attributes:
      level: `[m]`, one for each request, or one.
      width: `[m]`, likewise.
    """

    level: Float[np.ndarray, " m"]
    width: Float[np.ndarray, " m"]

    def outside(self, losses: Float[np.ndarray, " m"]) -> float:
        """How far the losses are outside the band; of many requests that of the farthest. 0 inside."""
        return float(np.max(np.maximum(np.abs(losses - self.level) - self.width, 0.0)))

    def describe(self) -> str:
        """The level in words."""
        if np.all(self.level == self.level[0]):
            return f"level {self.level[0]:.3g}, give or take {self.width[0]:.2g}"
        return f"levels from {self.level.min():.3g} to {self.level.max():.3g}"


@dataclasses.dataclass(frozen=True)
class ForgetProblem:
    """A model, its data sets, and the level that the forget set is to reach.

    Attributes:
      loss: `loss(params, batch) -> [batch]`.
      params: the original parameters.
      retain: the retain set, without what was set aside.
      forget: the forget set.
      held_out: the data by which the best parameters are chosen.
      held_out_given: whether it was given.
      unseen: data that the model was never trained on, or None.
      requests: the requests that the forget examples belong to, or None.
      band: the forget losses that count as forgotten.
      batch_size: examples evaluated at once.
      settings: the other arguments of `forget`, as plain values.
      retain_given: the retain set as it was given, with what was set aside.
    """

    loss: Loss
    params: Any
    retain: Any
    forget: Any
    held_out: Any
    held_out_given: bool
    unseen: Any
    requests: Groups | None
    band: Band
    batch_size: int
    settings: dict[str, Any]
    retain_given: Any

    def evaluated(self) -> dict[str, Any]:
        """The sets that are evaluated on the way."""
        sets = {"forget": self.forget, "held_out": self.held_out, "unseen": self.unseen}
        return {name: data for name, data in sets.items() if data is not None}

    def evaluation(self, sizes: tuple[int, int]) -> "ForgetEvaluation":
        """What is evaluated, seldom enough that it costs less than the steps, which take batches of these sizes."""
        examples = sum(validate.batch(name, data) for name, data in self.evaluated().items())
        every = max(SHORTEST, math.ceil(EVALUATED * examples / sum(sizes)))
        return ForgetEvaluation(
            self.evaluated(), every=every, batch_size=self.batch_size, band=self.band, requests=self.requests
        )

    @functools.cached_property
    def is_done(self) -> bool:
        """Whether the original parameters have forgotten already: every request is in its band or above it."""
        losses = request_losses(self.loss, self.params, self.forget, self.requests, batch_size=self.batch_size)
        return bool(np.all(losses >= self.band.level - self.band.width))


@dataclasses.dataclass(frozen=True)
class ForgetEvaluation(Evaluation):
    """An `Evaluation` with one more column: how far the forget losses of the requests are outside their band."""

    band: Band = dataclasses.field(kw_only=True)
    requests: Groups | None = None

    def measure(self, loss: Loss, params: Any, mesh: Mesh | None = None) -> dict[str, float]:
        """Mean losses of the splits, and `forget/outside`."""
        row = super().measure(loss, params, mesh)
        losses = np.array([row["forget/loss"]])
        if self.requests is not None:
            options: dict[str, Any] = {"batch_size": self.batch_size, "mesh": mesh}
            losses = request_losses(loss, params, self.splits["forget"], self.requests, **options)
        return {**row, OUTSIDE: self.band.outside(losses)}

    def columns(self) -> tuple[str, ...]:
        """The names of what `measure` returns."""
        return (*super().columns(), OUTSIDE)


def take_rows(data: Any, rows: Any) -> Any:
    """Some rows of a data set."""
    return jax.tree.map(lambda x: x[rows], data)


def set_aside(retain: Any, seed: int) -> tuple[Any, Any]:
    """The retain set in two: what steps may see, and the held-out part.

    Raises:
      ValueError: for a retain set of one example.
    """
    size = validate.batch("retain", retain)
    if size < 2:  # noqa: PLR2004  (one to keep, one to set aside)
        raise ValueError(f"retain: got {size} example, expected at least 2: one is set aside, since held_out is None")
    count = min(max(int(HELD_OUT * size), 1), MOST_HELD_OUT)
    order = np.random.default_rng([seed, 2]).permutation(size)
    return take_rows(retain, np.sort(order[count:])), take_rows(retain, np.sort(order[:count]))


def band_of(
    level: Any, tolerance: float, requests: Groups | None, *, loss: Loss, params: Any, unseen: Any, batch_size: int
) -> Band:
    """The level of each request, and how far from it counts as reached.

    Raises:
      ValueError: for neither a level nor unseen data, a level that is not finite, or a wrong number of levels.
    """
    count = None if requests is None else requests.count
    if level is None:
        level = evaluate(loss, params, {"unseen": unseen}, batch_size=batch_size)["unseen/loss"]
        if not math.isfinite(level):
            raise ValueError(f"unseen: got a mean loss of {level} under the original parameters, expected a finite one")
    levels_given = Level(level).count
    if levels_given not in (None, count):
        wanted = "a number" if count is None else f"a number, or {count}, one for each request"
        raise ValueError(f"level: got {levels_given} numbers, expected {wanted}")
    levels = np.broadcast_to(np.asarray(level, np.float64), (1 if count is None else count,))
    return Band(levels, tolerance * np.abs(levels))


def chance_level(loss: Loss, params: Any, data: Any) -> str:
    """For a classifier, a hint at the loss of a guess."""
    apply = getattr(loss, "apply", None)
    if apply is None:
        return ""
    classes = jax.eval_shape(apply, params, take_rows(data, slice(1))).shape[-1]
    return f"; for a classifier of {classes} classes a guess has level={math.log(classes):.3f}"


def request_losses(
    loss: Loss, params: Any, data: Any, requests: Groups | None, *, batch_size: int, mesh: Mesh | None = None
) -> Float[np.ndarray, " m"]:
    """The mean loss of each request over a whole data set; without requests that of the whole set.

    Raises:
      ValueError: for a request without an example that counts.
    """
    size = validate.batch("forget", data)
    losses = profile(_example_losses, loss, params, data, batch_size, mesh=mesh)
    weights = np.asarray(example_weights(loss, data, size, None), np.float64)
    count = 1 if requests is None else requests.count
    member = np.zeros(size, int) if requests is None else np.asarray(requests.of(data))
    counted = (member >= 0) & (member < count) & (weights > 0)
    totals = np.bincount(member[counted], weights[counted], count)
    if np.any(totals == 0):
        missing = int(np.argmin(totals))
        raise ValueError(f"requests: got no example of request {missing} in the forget set, expected at least one for each")
    return np.bincount(member[counted], weights[counted] * losses[counted], count) / totals


def _example_losses(loss: Loss, params: Any, batch: Any) -> Float[Array, " batch"]:
    """The loss of each example."""
    return jnp.asarray(per_example(loss, params, batch, validate.batch("data", batch), "data"))
