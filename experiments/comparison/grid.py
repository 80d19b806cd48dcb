"""The grid of a comparison: the same number of settings for every method."""

import dataclasses
from typing import TypeAlias

from experiments import methods

Seeds: TypeAlias = tuple[int, int]  # of training and of unlearning


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method with its hyper-parameters."""

    method: str
    learning_rate: float
    improvement: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """All settings of all methods, and the seeds at which they are run.

    Attributes:
      methods: names in `experiments.methods.METHODS`.
      seeds: pairs of seeds, of training and of unlearning.
      learning_rates: for methods without a required improvement.
      promise_learning_rates: for methods with one; each with each of `improvements`.
      improvements: required improvements.
    """

    methods: tuple[str, ...]
    seeds: tuple[Seeds, ...]
    learning_rates: tuple[float, ...]
    promise_learning_rates: tuple[float, ...]
    improvements: tuple[float, ...]

    def settings(self) -> list[Setting]:
        """All settings of all methods."""
        settings = []
        for name in self.methods:
            promises = methods.METHODS[name].promises
            rates = self.promise_learning_rates if promises else self.learning_rates
            settings += [Setting(name, rate, q) for rate in rates for q in (self.improvements if promises else (0.0,))]
        return settings

    def at_the_edge(self, setting: Setting) -> bool:
        """Whether a setting is at an end of its learning rates: beyond it there may be a better one."""
        rates = self.promise_learning_rates if setting.improvement else self.learning_rates
        return setting.learning_rate in (min(rates), max(rates))
