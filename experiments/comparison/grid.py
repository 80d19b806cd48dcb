"""The grid of a comparison: the same number of settings for every method, and what happens at its edges."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from experiments import methods

Seeds: TypeAlias = tuple[int, int]  # of training and of unlearning

DIGITS = 4  # significant digits of a learning rate: those of an extended grid shall be readable, and the same each time
DECADE = 10.0  # the ratio of neighbours in a grid of a single learning rate


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method with its hyper-parameters.

    Attributes:
      method: its name.
      learning_rate: the learning rate; 0 for a method that has none.
      improvement: the required improvement; 0 for a method that takes none.
      weight: the share of the forget gradient; None for a method that takes none.
    """

    method: str
    learning_rate: float = 0.0
    improvement: float = 0.0
    weight: float | None = None

    def describe(self) -> str:
        """The setting in a line."""
        words = [self.method]
        words += [f"learning rate {self.learning_rate:g}"] if self.learning_rate else []
        words += [f"improvement {self.improvement:g}"] if self.improvement else []
        words += [] if self.weight is None else [f"weight {self.weight:g}"]
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Grid:
    """All settings of all methods, and the seeds at which they are run.

    A method with a second hyper-parameter has each learning rate with each of its values; one without has as many learning
    rates between them, so that every method has the same number of settings over the same range. Calls of `hamu_jax.forget`
    have nothing to choose: one setting.

    Attributes:
      methods: names in `experiments.methods.METHODS` or `FORGET_CALLS`.
      seeds: pairs of seeds, of training and of unlearning.
      learning_rates: in ascending order, on a logarithmic grid.
      improvements: required improvements, of methods that take one.
      weights: shares of the forget gradient, of methods that take one; as many.
      ratio: of two neighbours among the learning rates.
    """

    methods: tuple[str, ...]
    seeds: tuple[Seeds, ...]
    learning_rates: tuple[float, ...]
    improvements: tuple[float, ...]
    weights: tuple[float, ...]
    ratio: float = DECADE

    def settings(self) -> list[Setting]:
        """All settings of all methods."""
        return [setting for name in self.methods for setting in self._settings_of(name)]

    def _settings_of(self, name: str) -> list[Setting]:
        """All settings of a method."""
        if name in methods.FORGET_CALLS:
            return [Setting(name)]
        method = methods.METHODS[name]
        if method.promises:
            return [Setting(name, rate, improvement=q) for rate in self.learning_rates for q in self.improvements]
        if method.weighs:
            return [Setting(name, rate, weight=weight) for rate in self.learning_rates for weight in self.weights]
        return [Setting(name, rate) for coarse in self.learning_rates for rate in self._around(coarse)]

    def _around(self, rate: float) -> list[float]:
        """As many learning rates as a second hyper-parameter has values: evenly spread around one, on the logarithmic scale."""
        count = len(self.weights)
        return [_rounded(rate * self.ratio ** ((i - (count - 1) / 2) / count)) for i in range(count)]

    def edge(self, setting: Setting) -> int:
        """-1 at the lowest learning rate of its method, 1 at the highest, else 0. Beyond an edge there may be a better one."""
        if setting.method in methods.FORGET_CALLS:
            return 0
        rates = [other.learning_rate for other in self._settings_of(setting.method)]
        return (setting.learning_rate >= max(rates)) - (setting.learning_rate <= min(rates))

    def extended(self, *, low: bool, high: bool) -> "Grid":
        """The grid with another learning rate below or above, for every method alike."""
        rates = list(self.learning_rates)
        rates = ([_rounded(rates[0] / self.ratio)] if low else []) + rates
        rates += [_rounded(rates[-1] * self.ratio)] if high else []
        return dataclasses.replace(self, learning_rates=tuple(rates))


def grid_of(names: tuple[str, ...], pairs: tuple[Seeds, ...], sweep: Any) -> Grid:
    """The grid that the settings of a sweep say.

    Raises:
      ValueError: for learning rates that do not ascend, or fewer weights than improvements or more: every method has the same
        number of settings.
    """
    rates = sweep.learning_rates
    if not rates or list(rates) != sorted(set(rates)) or rates[0] <= 0:
        raise ValueError(f"learning_rates: got {rates}, expected positive numbers in ascending order")
    if not sweep.improvements or len(sweep.weights) != len(sweep.improvements):
        raise ValueError(f"weights: got {sweep.weights}, expected as many as improvements, {sweep.improvements}")
    ratio = DECADE if len(rates) == 1 else (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
    return Grid(names, pairs, tuple(rates), sweep.improvements, sweep.weights, ratio)


def searched(
    grid: Grid,
    run: Callable[[list[Setting]], None],
    choose: Callable[[str], Setting],
    *,
    extensions: int,
    counts: Callable[[Setting], bool] = lambda setting: True,  # noqa: ARG005
) -> tuple[Grid, list[Setting]]:
    """Runs a grid, and extends it for all methods while the chosen setting of one is at its edge.

    Args:
      grid: the grid to begin with.
      run: runs some settings.
      choose: the best setting of a method among those that were run.
      extensions: how often the grid may be extended at most.
      counts: whether a chosen setting at the edge is a reason to extend it.

    Returns:
      The grid at the end, and the chosen setting of each method.
    """
    run(grid.settings())
    for _ in range(extensions):
        edges = {grid.edge(setting) for setting in map(choose, grid.methods) if counts(setting)}
        wider = grid.extended(low=-1 in edges, high=1 in edges)
        if wider == grid:
            break
        before = set(grid.settings())
        run([setting for setting in wider.settings() if setting not in before])
        grid = wider
    return grid, [choose(name) for name in grid.methods]


def settings_of(some: Sequence[Setting], method: str) -> list[Setting]:
    """Those of one method."""
    return [setting for setting in some if setting.method == method]


def _rounded(rate: float) -> float:
    """A learning rate with few digits."""
    return float(f"{rate:.{DIGITS}g}")
