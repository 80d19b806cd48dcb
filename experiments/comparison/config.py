"""The settings of a sweep, and what a sweep can vary."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a sweep varies.

    Attributes:
      title: the title of its table.
      setting: the name of the setting that is varied.
      values: the paper's values.
      methods: the methods that are run.
      fixed: settings that differ from those of the command `unlearn`.
    """

    title: str
    setting: str
    values: tuple[Any, ...]
    methods: tuple[str, ...] = ("hamu-q", "hamu-u")
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SHARED_AXES = {
    "constraint": Axis("The required improvement", "improvement", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "full-gradient": Axis("One problem per tensor, or one for the whole model", "blocks", ("leaf", "global")),
    "optimizer": Axis("The optimizer that takes the steps", "base", ("sgd", "momentum", "adamw")),
    "stopping": Axis("When to stop", "stop_criterion", (None, 1)),
    "unavoidable": Axis("When to stop, by our own rule", "stop_unavoidable", (None, 1)),
}
EQUAL = "equal-forgetting"
SEARCHES = (EQUAL, "baselines")  # they choose a setting per method
WITHOUT_AXIS = (*SEARCHES, "timing")  # they compare methods


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """What a sweep's settings are besides those of a run.

    Attributes:
      methods: the methods that are run. Default: the sweep's own.
      values: the values of what is varied, numbers or names. Default: the paper's.
      seeds: the seeds of unlearning: several runs on each trained model.
      training_seeds: the seeds of training: several models. Default: `training.seed`; on digits, a model per seed in `seeds`.
      grid_seeds: the seeds among `seeds` at which a comparison of all methods runs its whole grid, and by which it chooses
        settings; at the others it runs the chosen settings only. Default: all.
      chosen: a file that such a comparison wrote: the settings that were chosen there are run instead of a grid.
      learning_rates: the learning rates of the grid, ascending and evenly spread on the logarithmic scale. Methods without a
        second hyper-parameter get more of them over the same range, so that all have the same number of settings.
      improvements: the required improvements of the grid, for methods that take one; each with each learning rate.
      weights: the shares of the forget gradient, for methods that take one, likewise; as many.
      extensions: how often the grid is extended at most, for all methods alike, while the chosen setting of one is at its edge.
      smoke: few values and one seed, to see that it works.
    """

    methods: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (42,)
    training_seeds: tuple[int, ...] = ()
    grid_seeds: tuple[int, ...] = ()
    chosen: Path | None = None
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    improvements: tuple[float, ...] = (0.1, 0.3, 0.6)
    weights: tuple[float, ...] = (0.05, 0.15, 0.5)
    extensions: int = 3
    smoke: bool = False

    def reduced(self) -> "SweepSettings":
        """The settings at the smoke scale, if that is asked for."""
        if not self.smoke:
            return self
        lists = ("seeds", "training_seeds", "grid_seeds", "learning_rates", "improvements", "weights")
        return dataclasses.replace(self, extensions=0, **{name: getattr(self, name)[:1] for name in lists})


@dataclasses.dataclass(frozen=True)
class Pool:
    """The files of a pooled table, and where it is written.

    Attributes:
      files: what `sweep baselines` wrote, a trained model each.
      out: the directory of the results.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("pool-out")
