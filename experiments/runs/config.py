"""Settings in groups. A command's settings are composed of groups, and its problem and its method alone decide a run.

Nothing here or in another `config` module imports JAX: `--help` must not wait for it.
"""

import dataclasses
import typing
from typing import Annotated, Any, Literal, TypeVar

import tyro

T = TypeVar("T")
Group = Annotated[T, tyro.conf.arg(name="")]  # a field whose own fields are flags without a prefix


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where a command computes; decides no result.

    Attributes:
      devices: how many devices to use; on a CPU, virtual ones. Default: one, or all if there is a mesh.
      mesh: how the devices share the work, for example `data=4,objective=2,fsdp=1`. Default: all split the batches.
      distributed: join the other processes of the job (`jax.distributed.initialize`) before anything else.
    """

    devices: int | None = None
    mesh: str = ""
    distributed: bool = False


@dataclasses.dataclass(frozen=True)
class Logging:
    """Where else the numbers of every step go; decides no result.

    Attributes:
      tensorboard: write event files; needs tensorboardX.
      wandb: log to Weights & Biases; needs wandb.
    """

    tensorboard: bool = False
    wandb: bool = False


@dataclasses.dataclass(frozen=True)
class Method:
    """How the model is made to forget. Where the paper's scripts have a default, it is this one.

    Attributes:
      method: a name in `experiments.methods.METHODS`; `hamu-q` and `hamu-u` are the paper's two variants.
      learning_rate: the learning rate of unlearning.
      improvement: the required improvement, the paper's `CONSTRAINT_RATIO`, for methods that take one.
      weight: the share of the forget gradient in the step, for methods that add two weighted gradients. Default: half.
      blocks: what one problem is solved for: each tensor (`leaf`) or the whole model (`global`). Default: the method's own.
      distribution: each block's share of the improvement. `grad_norm` is the paper's. None: the method's own, `relative`.
      radius: the longest step of a block, per unit of learning rate. Default: the norm of the guiding gradient (the paper's).
      infeasible: what a block does whose share cannot be reached: the most that the ball allows (`scale`), a step that
        leaves the ball (`ascend`, the paper's code if it is told to go on), or no step (`skip`). Default: `scale`.
      clip_norm: the norm to which both gradients are clipped.
      base: the optimizer that takes the steps.
      steps: the largest number of steps.
      batch_size: examples from the retain set, and as many from the forget set, per step.
      microbatch_size: examples that are differentiated at once. Default: the whole batch.
      level: stop as soon as the mean loss of the whole forget set has reached this level, at an evaluation. Default: never.
      evaluations: how often the model is evaluated during unlearning.
      evaluate_every: the steps between two evaluations, in the place of `evaluations`.
      measure_every: measure the promised changes every so many steps. 0: never.
      checkpoint_every: steps between checkpoints, from which a run that was killed resumes. 0: no checkpoints.
      stop_unavoidable: stop after that many consecutive steps that must make the other objective worse.
      stop_criterion: the same by the paper's criterion.
      stop_infeasible: the same for steps in which no block can reach its share.
      groups: requests that the forget set is divided into, for `hamu-projected`.
      seed: the seed of the order of examples.
    """

    method: str = "hamu-q"
    learning_rate: float = 1e-4
    improvement: float = 0.5
    weight: float | None = None
    blocks: Literal["leaf", "global"] | None = None
    distribution: Literal["grad_norm", "relative", "uniform", "softmax"] | None = "grad_norm"
    radius: float | None = None
    infeasible: Literal["scale", "ascend", "skip"] | None = None
    clip_norm: float = 1.0
    base: Literal["sgd", "momentum", "adamw"] = "sgd"
    steps: int = 225
    batch_size: int = 5000
    microbatch_size: int | None = None
    level: float | None = None
    evaluations: int = 25
    evaluate_every: int | None = None
    measure_every: int = 0
    checkpoint_every: int = 50
    stop_unavoidable: int | None = None
    stop_criterion: int | None = None
    stop_infeasible: int | None = None
    groups: int = 10
    seed: int = 42


def flat(settings: Any) -> dict[str, Any]:
    """Every setting by the name of its flag, without the groups."""
    annotations = typing.get_type_hints(type(settings), include_extras=True)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not dataclasses.is_dataclass(value):
            values[field.name] = value
        elif typing.get_origin(annotations[field.name]) is Annotated:
            values |= flat(value)
        else:
            values[field.name] = dataclasses.asdict(typing.cast(Any, value))
    return values


def part(settings: Any, kind: type[T]) -> T:
    """The settings of a class that the settings' own class extends."""
    return kind(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(typing.cast(Any, kind))})


def replaced(settings: T, **changes: Any) -> T:
    """The settings with other values, each in the group that has it.

    Raises:
      TypeError: for a name that no group has.
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, settings)):
        group = getattr(settings, field.name)
        if dataclasses.is_dataclass(group) and not isinstance(changes.get(field.name), type(group)):
            names = {member.name for member in dataclasses.fields(group)} & set(changes)
            groups[field.name] = dataclasses.replace(typing.cast(Any, group), **{name: changes.pop(name) for name in names})
    return dataclasses.replace(typing.cast(Any, settings), **groups, **changes)
