"""The settings of an unlearning run, whatever is unlearned."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How a method is run. Where the paper's scripts have a default, it is this one.

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
      batch_size: examples from either set.
      microbatch_size: examples differentiated at once. Default: all of a batch.
      evaluations: on the way.
      measure_every: measure what every so many steps did, beside what was promised. 0: never.
      checkpoint_every: steps between checkpoints, from which a run that was killed goes on.
      stop_unavoidable: stop after so many steps in a row that must make the other objective worse.
      stop_criterion: likewise by the paper's criterion.
      stop_infeasible: likewise when no block can have its share.
      groups: requests that the forget set is divided into, for `hamu-projected`.
      seed: of the order of examples.
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
