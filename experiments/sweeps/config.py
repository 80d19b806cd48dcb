"""Which sweeps there are, and their settings."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments import kept_runs, methods
from experiments.vision.config import Training, Unlearning


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a sweep varies.

    Attributes:
      title: of its table.
      field: the setting that is varied.
      values: the paper's.
      methods: those that are run.
      fixed: settings that differ from those of the command `unlearn`.
    """

    title: str
    field: str
    values: tuple[Any, ...]
    methods: tuple[str, ...] = ("hamu-q", "hamu-u")
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)


AXES = {
    "rho": Axis("From easy to hard", "rho", (0.0, 0.25, 0.5, 0.75, 1.0), ("ft", "ga", "gdiff", "hamu-q", "hamu-u")),
    "constraint": Axis("The required improvement", "improvement", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "batch-size": Axis("The batch size", "batch_size", (128, 256, 512, 1024, 2048)),
    "full-gradient": Axis("One problem a tensor, or one for the whole model", "blocks", ("leaf", "global")),
    "optimizer": Axis("The optimizer that takes the steps", "base", ("sgd", "momentum", "adamw")),
    "stopping": Axis("When to stop", "stop_criterion", (None, 1), fixed={"rho": 0.5}),
    "unavoidable": Axis("When to stop, by our own rule", "stop_unavoidable", (None, 1), fixed={"rho": 0.5}),
}
NAMES = (*AXES, "baselines", "timing")


@dataclasses.dataclass(frozen=True)
class Sweep(Unlearning):
    """A sweep's settings: those of a run, and what is varied.

    Attributes:
      out: where models, runs and, in a directory of the sweep's name, table and figure go.
      methods: those that are run. Default: the sweep's own.
      values: of what is varied, numbers or names. Default: the paper's.
      seeds: of unlearning, several runs on each trained model.
      training_seeds: of training, several models. Default: the one of `training.seed`.
      grid_seeds: those of `seeds` at which `baselines` runs its whole grid, and by which it chooses; at the others it runs
        what was chosen. Default: all.
      learning_rates: the grid of `baselines`, for methods without a required improvement.
      promise_learning_rates: likewise for methods with one; each with each of `improvements`.
      improvements: likewise.
      smoke: few values, one seed: to see that it works.
    """

    out: Path = Path("vision-out")
    methods: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (42,)
    training_seeds: tuple[int, ...] = ()
    grid_seeds: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    promise_learning_rates: tuple[float, ...] = (1e-2, 3e-2)
    improvements: tuple[float, ...] = (0.3, 0.6)
    smoke: bool = False


def chosen_methods(name: str, config: Sweep) -> tuple[str, ...]:
    """The methods of a sweep."""
    return config.methods or (AXES[name].methods if name in AXES else tuple(methods.METHODS))


def run_settings(config: Sweep, **changed: Any) -> Unlearning:
    """One run, with some settings changed."""
    return dataclasses.replace(kept_runs.part(config, Unlearning), **changed)


def directory(name: str, config: Sweep) -> str:
    """The name of its results: the sweep's, and rho unless that is what it varies."""
    rho = AXES[name].fixed.get("rho", config.rho) if name in AXES else config.rho
    return name if name == "rho" else f"{name}-rho{rho:g}"


def trained_with(config: Sweep) -> list[Training]:
    """The training of every model."""
    seeds = config.training_seeds or (config.training.seed,)
    return [dataclasses.replace(config.training, seed=seed) for seed in seeds]


def check(name: str, config: Sweep) -> None:
    """Checks names and values.

    Raises:
      ValueError: naming the argument.
    """
    if name not in NAMES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(NAMES)}")
    for method in config.methods:
        if method not in methods.METHODS:
            raise ValueError(f"methods: got {method!r}, expected some of {', '.join(methods.METHODS)}")
    if not set(config.grid_seeds) <= set(config.seeds):
        raise ValueError(f"grid_seeds: got {config.grid_seeds}, expected some of seeds, {config.seeds}")
    if config.values and name not in AXES:
        raise ValueError(f"values: got {config.values}, expected none: {name} varies the method")
    values(name, config)


def values(name: str, config: Sweep) -> tuple[Any, ...]:
    """What the sweep's setting is set to.

    Raises:
      ValueError: for a value that is not of the paper's values' kind.
    """
    if name not in AXES:
        return ()
    own = AXES[name].values
    chosen = tuple(_read(text, own[-1]) for text in config.values) if config.values else own
    return (chosen[0], chosen[-1]) if config.smoke else chosen


def _read(text: str, like: Any) -> Any:
    """A value from the command line."""
    if text == "None":
        return None
    try:
        return type(like)(text)
    except ValueError as error:
        raise ValueError(f"values: got {text!r}, expected {type(like).__name__}s") from error
