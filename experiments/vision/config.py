"""The settings of the experiments on images. Where the paper's code has one, its default is here."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.on_devices import OnDevices


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
class Unlearning(Problem):
    """One run of a method. The defaults are those of the paper's scripts.

    Attributes:
      method: a name in `experiments.methods.METHODS`: `hamu-q` and `hamu-u` are the paper's two variants.
      learning_rate: of unlearning.
      improvement: the required improvement, the paper's `CONSTRAINT_RATIO`; for methods that take one.
      blocks: what is one problem, each tensor (`leaf`) or the whole model (`global`). Default: the method's own.
      distribution: each block's share of the improvement. `grad_norm` is the paper's; None: the method's own, `relative`.
      radius: longest step of a block, per unit of learning rate. Default: the norm of the guiding gradient (the paper's).
      infeasible: what a block does that cannot have its share: go as far as the ball allows (`scale`), leave the ball
        (`ascend`, the paper's code if it is told to go on), or nothing (`skip`). Default: `scale`.
      clip_norm: to which both gradients are clipped.
      base: the optimizer that takes the steps.
      steps: at most.
      batch_size: images from either set.
      microbatch_size: images differentiated at once. Default: all of a batch.
      evaluations: on validation and test images, on the way.
      measure_every: measure what every so many steps did, beside what was promised. 0: never.
      checkpoint_every: steps between checkpoints, from which a run that was killed goes on.
      stop_unavoidable: stop after so many steps in a row that must make the other objective worse.
      stop_criterion: likewise by the paper's criterion.
      stop_infeasible: likewise when no block can have its share.
      groups: requests that the forget set is divided into, for `hamu-projected`.
      seed: of the order of images.
      tensorboard: write event files, for which tensorboardX must be installed.
      wandb: log to Weights & Biases, for which wandb must be installed.
    """

    method: str = "hamu-q"
    learning_rate: float = 1e-4
    improvement: float = 0.5
    blocks: Literal["leaf", "global"] | None = None
    distribution: Literal["grad_norm", "relative", "uniform", "softmax"] | None = "grad_norm"
    radius: float | None = None
    infeasible: Literal["scale", "ascend", "skip"] | None = None
    clip_norm: float = 1.0
    base: Literal["sgd", "momentum", "adamw"] = "sgd"
    steps: int = 225
    batch_size: int = 5000
    microbatch_size: int | None = None
    evaluations: int = 25
    measure_every: int = 0
    checkpoint_every: int = 50
    stop_unavoidable: int | None = None
    stop_criterion: int | None = None
    stop_infeasible: int | None = None
    groups: int = 10
    seed: int = 42
    tensorboard: bool = False
    wandb: bool = False
