"""What a sweep's settings mean: its runs' settings, seeds, methods and values, and whether they are valid."""

import dataclasses
import itertools
from typing import Any, TypeVar

from experiments import methods
from experiments.comparison.config import EQUAL, SEARCHES
from experiments.comparison.grid import Seeds, grid_of
from experiments.comparison.modality import Modality
from experiments.runs.config import replaced

T = TypeVar("T")


def run_settings(settings: T, seeds: Seeds, **changes: Any) -> T:
    """The settings of one run of a sweep."""
    training = dataclasses.replace(settings.problem.training, seed=seeds[0])
    return replaced(settings, training=training, seed=seeds[1], **changes)


def seed_pairs(modality: Modality, settings: Any) -> tuple[Seeds, ...]:
    """The seeds of training and of unlearning of all runs with the same setting."""
    sweep = settings.sweep
    if modality.model_per_seed and not sweep.training_seeds:
        return tuple((seed, seed) for seed in sweep.seeds)
    return tuple(itertools.product(sweep.training_seeds or (settings.problem.training.seed,), sweep.seeds))


def methods_of(modality: Modality, name: str, settings: Any) -> tuple[str, ...]:
    """The methods of a sweep."""
    default = modality.axes[name].methods if name in modality.axes else _all_methods(name)
    return settings.sweep.methods or default


def _all_methods(name: str) -> tuple[str, ...]:
    """The methods that a comparison can run: calls of `hamu_jax.forget` need a level."""
    return (*methods.METHODS, *(methods.FORGET_CALLS if name == EQUAL else ()))


def values(modality: Modality, name: str, settings: Any) -> tuple[Any, ...]:
    """The values of the setting that the sweep varies.

    Raises:
      ValueError: for a value of another type than the paper's.
    """
    if name not in modality.axes:
        return ()
    default, texts = modality.axes[name].values, settings.sweep.values
    chosen = tuple(_value(text, default[-1]) for text in texts) if texts else default
    return (chosen[0], chosen[-1]) if settings.sweep.smoke else chosen


def directory_name(modality: Modality, name: str, settings: Any) -> str:
    """The name of the results: the sweep's, and the problem's unless the sweep varies the problem."""
    axis = modality.axes.get(name)
    fixed = {} if axis is None else axis.fixed
    varied = [{}] if axis is None else [{axis.setting: axis.values[end]} for end in (0, -1)]
    problems = {modality.label(replaced(settings, **{**fixed, **changes}).problem) for changes in varied}
    return name if len(problems) > 1 else f"{name}-{problems.pop().replace(' ', '')}"


def check(modality: Modality, name: str, settings: Any) -> None:
    """Checks names and values.

    Raises:
      ValueError: naming the argument.
    """
    sweep = settings.sweep
    if name not in modality.sweeps:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(modality.sweeps)}")
    for method in sweep.methods:
        if method not in _all_methods(name):
            raise ValueError(f"methods: got {method!r}, expected some of {', '.join(_all_methods(name))}")
    if not set(sweep.grid_seeds) <= set(sweep.seeds):
        raise ValueError(f"grid_seeds: got {sweep.grid_seeds}, expected some of seeds, {sweep.seeds}")
    if sweep.values and name not in modality.axes:
        raise ValueError(f"values: got {sweep.values}, expected none: {name} varies the method")
    if sweep.chosen is not None and name not in SEARCHES:
        raise ValueError(f"chosen: got {sweep.chosen}, expected none: only {' and '.join(SEARCHES)} choose settings")
    if name in SEARCHES and sweep.chosen is None:
        grid_of((), (), sweep)
    values(modality, name, settings)


def _value(text: str, example: Any) -> Any:
    """A value from the command line, of the type of an example."""
    if text == "None":
        return None
    try:
        return type(example)(text)
    except ValueError as error:
        raise ValueError(f"values: got {text!r}, expected {type(example).__name__}s") from error
