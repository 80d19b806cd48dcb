"""The settings of the experiments on handwritten digits."""

import dataclasses
from pathlib import Path

from experiments.comparison.config import SHARED_AXES, Axis, SweepSettings
from experiments.runs.config import Devices, Group, Logging, Method


@dataclasses.dataclass(frozen=True)
class FullModel:
    """How the full model of the quickstart, the assessment and the owners is trained.

    Attributes:
      out: the directory of the results.
      seed: the seed of the split, the initial weights and the order of examples.
      epochs: of training.
    """

    out: Path = Path("digits-out")
    devices: Group[Devices] = Devices()
    seed: int = 0
    epochs: int = 25


@dataclasses.dataclass(frozen=True)
class Quickstart(FullModel):
    """The quickstart's settings.

    Attributes:
      forget_class: the digit to forget.
      steps: the largest number of unlearning steps.
      batch_size: examples from the retain set, and as many from the forget set, per step.
    """

    out: Path = Path("quickstart-out")
    forget_class: int = 3
    steps: int = 300
    batch_size: int = 128


@dataclasses.dataclass(frozen=True)
class Assessment(FullModel):
    """The assessment's settings.

    Attributes:
      forget_class: the digit to forget.
      improvement: the cosine between each layer's step and its forget gradient that is required.
    """

    out: Path = Path("assess-out")
    forget_class: int = 3
    improvement: float = 0.5


@dataclasses.dataclass(frozen=True)
class Owners(FullModel):
    """The settings of the experiment with many owners.

    Attributes:
      owners: the number of people who ask.
      held: the training images of each.
      steps: the largest number of unlearning steps.
      target: the mean loss over all owners' images at which unlearning stops.
      learning_rate: the learning rate of unlearning.
      improvement: the cosine between the step and the mean gradient, or every owner's, that is required.
    """

    out: Path = Path("owners-out")
    owners: int = 20
    held: int = 10
    steps: int = 200
    target: float = 1.0
    learning_rate: float = 0.05
    improvement: float = 0.1


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
      epochs: over its training set.
      seed: the seed of the split, the initial weights and the order of examples.
    """

    epochs: int = 25
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Problem:
    """The digit that is forgotten, and how the models are trained.

    Attributes:
      forget_class: the digit to forget. None: the last digit of the training seed, so that ten models forget ten digits.
      training: how models are trained.
    """

    forget_class: int | None = 3
    training: Training = Training()

    @property
    def digit(self) -> int:
        """The digit to forget."""
        return self.training.seed % 10 if self.forget_class is None else self.forget_class


METHOD = Method(learning_rate=0.1, distribution=None, steps=100, batch_size=128, evaluations=5, checkpoint_every=0, seed=0)
GRID = SweepSettings(seeds=(0, 1, 2), learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0), improvements=(0.2, 0.5, 0.8))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The settings of many runs.

    Attributes:
      out: the directory of runs and results.
    """

    problem: Group[Problem] = Problem()
    method: Group[Method] = METHOD
    sweep: Group[SweepSettings] = GRID
    devices: Group[Devices] = Devices()
    logging: Group[Logging] = Logging()
    out: Path = Path("digits-out")


AXES: dict[str, Axis] = {"batch-size": Axis("The batch size", "batch_size", (16, 32, 64, 128)), **SHARED_AXES}
