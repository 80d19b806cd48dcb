"""What a comparison must know of the experiments on one kind of data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.comparison.config import WITHOUT_AXIS, Axis
from experiments.comparison.summary import COLUMNS, DETAILS, OF_ACCURACY, Judge
from experiments.runs.run_store import all_models
from experiments.runs.unlearning import Record, Scenario

ALONG = {name: column for name, column in COLUMNS.items() if column != "hypervolume"} | {"steps": "steps"}
PANELS = {"accuracy on the retain set": "test retain/accuracy", "on the forget set": "forget/accuracy", "gap": "gap"}
COSTS = {"validation": "validation retain/loss", "retain": "retain/loss", "test": "test retain/loss"}
LOST = {"test accuracy lost": "test retain/accuracy"}
CHOSEN = (
    "The setting of each method with the smallest mean gap on validation images over {seeds}; of equal gaps the one with the "
    "smallest mean divergence from the retrained model there. The choice needs the retrained model, which is missing when a "
    "deletion request is served: methods are compared at their best."
)


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of data. Functions take a run's settings and the mesh of devices.

    Attributes:
      program: the package, as in `python -m experiments.vision`.
      axes: what can be varied, by the sweep's name.
      label: `label(problem)`, the problem in a title.
      record: `record(settings, mesh)`, a run's record; the run is made if it is missing.
      scenario: `scenario(settings, mesh)`, model and data.
      train_missing: `train_missing(settings, mesh)` trains the models that are missing; called before each of the above.
      level: `level(settings, mesh)`, the loss at which the forget set counts as forgotten: that of unseen data, or chance.
      explained: what the numbers are, in words with `{trained}` models and `{seeds}` runs.
      chosen: how settings are chosen, in words with `{seeds}`.
      measured: `measured(settings, mesh)`, all numbers of the `full`, the `retrained` and the `unlearned` model of a run.
        Default: those in its record.
      judge: the numbers that decide in a comparison of all methods.
      columns: the columns of its table: the numbers' names by title.
      costs: the costs of equal forgetting: of each loss by title its rise. Settings are chosen by the first.
      lost: the accuracies whose fall is reported beside them, by title.
      details: the columns of its second table.
      gap_along: the numbers whose distance to the retrained model is the `gap` of a sweep along a setting.
      along: the columns of such a sweep's table.
      panels: the panels of such a sweep's picture: the numbers' names by title.
      model_per_seed: whether each seed of unlearning is also the seed of a model of its own, if `training_seeds` says nothing.
    """

    program: str
    axes: Mapping[str, Axis]
    label: Callable[[Any], str]
    record: Callable[[Any, Any], Record]
    scenario: Callable[[Any, Any], Scenario]
    level: Callable[[Any, Any], float]
    explained: str
    train_missing: Callable[[Any, Any], None] = lambda settings, mesh: None  # noqa: ARG005
    chosen: str = CHOSEN
    measured: Callable[[Any, Any], dict[str, Record]] | None = None
    judge: Judge = OF_ACCURACY
    columns: Mapping[str, str] = dataclasses.field(default_factory=lambda: COLUMNS)
    details: Mapping[str, str] = dataclasses.field(default_factory=lambda: DETAILS)
    costs: Mapping[str, str] = dataclasses.field(default_factory=lambda: COSTS)
    lost: Mapping[str, str] = dataclasses.field(default_factory=lambda: LOST)
    gap_along: tuple[str, ...] = OF_ACCURACY.reported
    along: Mapping[str, str] = dataclasses.field(default_factory=lambda: ALONG)
    panels: Mapping[str, str] = dataclasses.field(default_factory=lambda: PANELS)
    model_per_seed: bool = False

    @property
    def sweeps(self) -> tuple[str, ...]:
        """The names of all sweeps."""
        return (*self.axes, *WITHOUT_AXIS)

    def all_measured(self, settings: Any, mesh: Any) -> dict[str, Record]:
        """All numbers of the three models of a run."""
        return all_models(self.record(settings, mesh)) if self.measured is None else self.measured(settings, mesh)

    def trained_record(self, settings: Any, mesh: Any) -> Record:
        """A run's record; the run and its models are made if they are missing."""
        self.train_missing(settings, mesh)
        return self.record(settings, mesh)
