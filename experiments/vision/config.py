"""The settings of the experiments on images. Where the paper's code has one, its default is here."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.comparison.config import SHARED_AXES, Axis, SweepSettings
from experiments.runs.config import Devices, Group, Logging, Method


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
      model: `resnet20`, `wide-resnet` (the same four times as wide), or `resnet8` (one block per stage, to try things out).
      epochs: over its training set.
      batch_size: images per step.
      learning_rate: the highest learning rate of AdamW.
      weight_decay: the weight decay of AdamW.
      schedule: `linear` decay, or `one-cycle` with cosine, which learns more in few epochs.
      augment: random shifts by up to four pixels, and flips.
      evaluations: how often validation accuracy is measured; the best model is kept.
      seed: the seed of the initial weights, the order of images and augmentation.
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
class Problem:
    """The images, the forget set, and how the models are trained.

    Attributes:
      dataset: a name in `experiments.data.images.SOURCES`.
      limit: the largest number of training images. Default: all that are not held out.
      validation: training images held out: models and settings are chosen on them, never on test images. Default: 5,000; of
        `digits`, which has 1,437, 280.
      evaluated: the largest number of images of each split that are evaluated. Default: all.
      forget_class: the class to be forgotten.
      rho: 0 forgets the class (easy), 1 a random tenth of all images (hard).
      split_seed: the seed of the draw.
      training: how models are trained.
    """

    dataset: str = "cifar10"
    limit: int | None = None
    validation: int | None = None
    evaluated: int | None = None
    forget_class: int = 0
    rho: float = 0.0
    split_seed: int = 42
    training: Training = Training()

    @property
    def held_out(self) -> int:
        """The number of training images that are held out."""
        default = 280 if self.dataset == "digits" else 5000
        return default if self.validation is None else self.validation


@dataclasses.dataclass(frozen=True)
class Files:
    """Where images are read; decides no result.

    Attributes:
      data_dir: the directory of prepared data sets. Default: that of tensorflow-datasets.
      download: prepare the data set there if it is missing.
    """

    data_dir: Path | None = None
    download: bool = False


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The settings of `train` and `retrain`. Training itself runs on the first device.

    Attributes:
      out: the directory of models, runs and reports.
    """

    problem: Group[Problem] = Problem()
    files: Group[Files] = Files()
    devices: Group[Devices] = Devices()
    out: Path = Path("vision-out")


@dataclasses.dataclass(frozen=True)
class Unlearning(ModelSettings):
    """The settings of one run of a method."""

    method: Group[Method] = Method()
    logging: Group[Logging] = Logging()


@dataclasses.dataclass(frozen=True)
class Sweep(Unlearning):
    """The settings of many runs."""

    sweep: Group[SweepSettings] = SweepSettings()


HALF = {"rho": 0.5}  # as in the paper
AXES = {
    "rho": Axis("From easy to hard", "rho", (0.0, 0.25, 0.5, 0.75, 1.0), ("ft", "ga", "gdiff", "hamu-q", "hamu-u")),
    "batch-size": Axis("The batch size", "batch_size", (128, 256, 512, 1024, 2048)),
    **SHARED_AXES,
    **{name: dataclasses.replace(SHARED_AXES[name], fixed=HALF) for name in ("stopping", "unavoidable")},
}
