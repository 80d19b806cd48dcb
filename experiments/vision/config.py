"""The settings of the experiments on images. Where the paper's code has one, its default is here."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.runs.devices import OnDevices
from experiments.runs.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
      model: `resnet20`, `wide-resnet` (the same four times as wide), or `resnet8` (a block a stage, to try things out).
      epochs: over its training set.
      batch_size: images a step.
      learning_rate: of AdamW at its highest.
      weight_decay: of AdamW.
      schedule: `linear` decay, or `one-cycle` with cosine, which learns more in few epochs.
      augment: random shifts by up to four pixels, and flips.
      evaluations: how often validation accuracy is looked at; the best model is kept.
      seed: of the initial weights, the order of images and augmentation.
    """

    model: Literal["resnet20", "wide-resnet", "resnet8"] = "resnet20"
    epochs: int = 50
    batch_size: int = 5000
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["linear", "one-cycle"] = "linear"
    augment: bool = False
    evaluations: int = 10
    seed: int = 42


@dataclasses.dataclass(frozen=True)
class Problem(OnDevices):
    """Which images, which of them are to be forgotten, and how the models are trained.

    Attributes:
      out: where models, runs and reports go.
      dataset: a name in `experiments.data.images.SOURCES`.
      data_dir: directory of prepared data sets; default: tensorflow-datasets' own.
      download: prepare the data set there if it is missing.
      limit: at most that many training images. Default: all that are not held out.
      validation: training images held out: models and settings are chosen on them, never on test images.
      evaluated: at most that many images of each part are evaluated. Default: all.
      forget_class: the class to be forgotten.
      rho: 0 forgets the class (easy), 1 a random tenth of all images (hard).
      split_seed: of the draw.
      training: how models are trained.
    """

    out: Path = Path("vision-out")
    dataset: str = "cifar10"
    data_dir: Path | None = None
    download: bool = False
    limit: int | None = None
    validation: int = 5000
    evaluated: int | None = None
    forget_class: int = 0
    rho: float = 0.0
    split_seed: int = 42
    training: Training = Training()  # frozen


@dataclasses.dataclass(frozen=True)
class Unlearning(RunConfig, Problem):
    """One run of a method. The defaults are those of the paper's scripts."""
