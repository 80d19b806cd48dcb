"""Settings of a sweep, whatever it sweeps over, and what it must know of that."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from experiments.runs import run_store
from experiments import methods
from experiments.comparison.summary import Judge
from experiments.runs.unlearning import Case, Record


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
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


AXES = {
    "constraint": Axis("The required improvement", "improvement", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "full-gradient": Axis("One problem a tensor, or one for the whole model", "blocks", ("leaf", "global")),
    "optimizer": Axis("The optimizer that takes the steps", "base", ("sgd", "momentum", "adamw")),
    "stopping": Axis("When to stop", "stop_criterion", (None, 1)),
    "unavoidable": Axis("When to stop, by our own rule", "stop_unavoidable", (None, 1)),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a sweep must know of the experiments on one kind of model.

    Attributes:
      run: the class of a run's settings.
      axes: what can be varied, by the sweep's name.
      label: `label(settings of a run)`, the problem, in a title.
      ensure: `ensure(settings of a run)`, its record; run and models are made unless they are there.
      everything: `everything(settings of a run)`, all that is measured of the `full`, the `retrained` and the `unlearned`
        model of a run that is there.
      case: `case(settings of a run)`, model and data; models are made unless they are there.
      judge: the numbers that decide in a comparison of all methods.
      columns: of its table: the numbers' names by title.
      details: of its second table.
      row: `row(record)`, a run's numbers in a sweep along a setting, `gap` among them.
      along: its table's columns.
      panels: its picture's: the numbers' names by title; the retrained model has no `gap`.
      explained: what the numbers are, in words with `{trained}` models and `{seeds}` runs.
      chosen: how settings are chosen, in words with `{seeds}`.
    """

    run: type[Any]
    axes: Mapping[str, Axis]
    label: Callable[[Any], str]
    ensure: Callable[[Any], Record]
    everything: Callable[[Any], dict[str, Record]]
    case: Callable[[Any], Case]
    judge: Judge
    columns: Mapping[str, str]
    details: Mapping[str, str]
    row: Callable[[Record], Record]
    along: Mapping[str, str]
    panels: Mapping[str, str]
    explained: str
    chosen: str

    @property
    def names(self) -> tuple[str, ...]:
        """The sweeps."""
        return (*self.axes, "baselines", "timing")


@dataclasses.dataclass(frozen=True)
class Varied:
    """What a sweep's settings are besides those of a run.

    Attributes:
      methods: those that are run. Default: the sweep's own.
      values: of what is varied, numbers or names. Default: the paper's.
      seeds: of unlearning, several runs on each trained model.
      training_seeds: of training, several models. Default: the one of `training.seed`.
      grid_seeds: those of `seeds` at which `baselines` runs its whole grid, and by which it chooses; at the others it runs
        what was chosen. Default: all.
      chosen: a file that `baselines` left: the settings that were chosen there are run instead of a grid.
      learning_rates: the grid of `baselines`, for methods without a required improvement.
      promise_learning_rates: likewise for methods with one; each with each of `improvements`.
      improvements: likewise.
      smoke: few values, one seed: to see that it works.
    """

    kind: ClassVar[Kind]

    methods: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (42,)
    training_seeds: tuple[int, ...] = ()
    grid_seeds: tuple[int, ...] = ()
    chosen: Path | None = None
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    promise_learning_rates: tuple[float, ...] = (1e-2, 3e-2)
    improvements: tuple[float, ...] = (0.3, 0.6)
    smoke: bool = False


def chosen_methods(name: str, config: Varied) -> tuple[str, ...]:
    """The methods of a sweep."""
    axes = config.kind.axes
    return config.methods or (axes[name].methods if name in axes else tuple(methods.METHODS))


def run_settings(config: Varied, **changed: Any) -> Any:
    """One run, with some settings changed."""
    return dataclasses.replace(run_store.part(config, config.kind.run), **changed)


def directory(name: str, config: Varied) -> str:
    """The name of its results: the sweep's, and the problem's unless that is what it varies."""
    axis = config.kind.axes.get(name)
    fixed = {} if axis is None else axis.fixed
    varied = [{}] if axis is None else [{axis.field: axis.values[place]} for place in (0, -1)]
    problems = {config.kind.label(run_settings(config, **{**fixed, **changed})) for changed in varied}
    return name if len(problems) > 1 else f"{name}-{problems.pop().replace(' ', '')}"


def trained_with(config: Any) -> list[Any]:
    """The training of every model."""
    seeds = config.training_seeds or (config.training.seed,)
    return [dataclasses.replace(config.training, seed=seed) for seed in seeds]


def check(name: str, config: Varied) -> None:
    """Checks names and values.

    Raises:
      ValueError: naming the argument.
    """
    names, axes = config.kind.names, config.kind.axes
    if name not in names:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(names)}")
    for method in config.methods:
        if method not in methods.METHODS:
            raise ValueError(f"methods: got {method!r}, expected some of {', '.join(methods.METHODS)}")
    if not set(config.grid_seeds) <= set(config.seeds):
        raise ValueError(f"grid_seeds: got {config.grid_seeds}, expected some of seeds, {config.seeds}")
    if config.values and name not in axes:
        raise ValueError(f"values: got {config.values}, expected none: {name} varies the method")
    if config.chosen is not None and name != "baselines":
        raise ValueError(f"chosen: got {config.chosen}, expected none: only baselines chooses settings")
    values(name, config)


def values(name: str, config: Varied) -> tuple[Any, ...]:
    """What the sweep's setting is set to.

    Raises:
      ValueError: for a value that is not of the paper's values' kind.
    """
    if name not in config.kind.axes:
        return ()
    own = config.kind.axes[name].values
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
