"""The gradients of the retain and of the forget loss."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from jaxtyping import Array, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._gradients.groups import Groups, implicit, stacked
from hamu_jax._gradients.losses import Batch, Loss, Partial, mean_and_grad
from hamu_jax._kernel.inner_products import Tree

T = TypeVar("T")


class Paired(NamedTuple, Generic[T]):
    """One value for each of the two objectives."""

    retain: T
    forget: T


class PairedGradient(Protocol):
    """The function that `paired_value_and_grad` returns."""

    def __call__(
        self,
        params: Tree,
        retain_batch: Batch,
        forget_batch: Batch,
        *,
        retain_weights: Float[Array, " retain"] | None = None,
        forget_weights: Float[Array, " forget"] | None = None,
    ) -> tuple[Paired[Float[Array, ""]], Paired[Any]]:
        """Returns `((retain, forget) losses, (retain, forget) gradients)`."""
        ...


def paired_value_and_grad(
    loss: Loss,
    *,
    forget_loss: Loss | None = None,
    microbatch_size: int | None = None,
    forget_groups: Groups | None = None,
    axis_name: AxisName | None = None,
) -> PairedGradient:
    """The mean losses on a retain and on a forget batch, and their gradients with respect to the parameters.

    Gradient accumulation lives here, because optax wrappers such as `optax.MultiSteps` do not see `forget_grads`.

    Args:
      loss: `loss(params, batch) -> [batch]`, one loss per example. If it has a method `weights(batch) -> [batch]`, as the
        losses of `hamu_jax.objectives` have, these weights enter the mean: 0 leaves a padding example out.
      forget_loss: the loss of the forget batch if it is another one.
      microbatch_size: examples that are differentiated at once, for less memory; the result is the same up to rounding,
        summed in float32 or wider. A last microbatch that is not full is padded with examples of weight 0. None: all.
      forget_groups: the requests that the forget examples belong to: the forget loss is then `[m]`, one mean per group, and
        its gradient `[m, ...]` (or an `ImplicitStack` for it, see `Groups`), for `transform(..., forget_axis=0)`.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis (or axes) over which the batches are split: losses and
        gradients are those of the whole batch, every example counting alike wherever it is, and the same on all devices.

    Returns:
      `f(params, retain_batch, forget_batch, *, retain_weights=None, forget_weights=None)`, which gives
      `((retain, forget) losses, (retain, forget) gradients)` as named tuples. Batches are pytrees with a leading example
      axis; weights are `[batch]`, at least 0. A batch whose weights are all 0 has loss 0 and gradient 0. It raises ValueError,
      while tracing, for an empty batch, leaves of different lengths, a loss that does not return `[batch]`, or weights of
      another shape. Negative weights are an error too; inside `jit`, where nothing raises, loss and gradient are then NaN.

    Raises:
      ValueError: if `microbatch_size` is not a positive whole number, or for implicit groups with `axis_name`.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> loss = lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2
      >>> batch = {"x": jnp.eye(2), "y": jnp.array([1.0, 2.0])}
      >>> losses, grads = hamu_jax.paired_value_and_grad(loss)(jnp.zeros(2), batch, batch)
      >>> print(losses.retain, grads.forget)
      2.5 [-1. -2.]
    """
    validate.function("loss", loss, "loss(params, batch) -> [batch]")
    validate.function("forget_loss", forget_loss, "loss(params, batch) -> [batch]", optional=True)
    validate.instance("forget_groups", forget_groups, Groups, optional=True)
    if microbatch_size is not None:
        microbatch_size = validate.integer("microbatch_size", microbatch_size)
    validate.axis_name("axis_name", axis_name)
    partials = paired_partials(
        loss, forget_loss=forget_loss, microbatch_size=microbatch_size, forget_groups=forget_groups, axis_name=axis_name
    )

    def paired(params: Tree, retain_batch: Batch, forget_batch: Batch, **weights: Any) -> tuple[Paired[Array], Paired[Any]]:
        device_axes.check("axis_name", axis_name)
        params = device_axes.per_device(params, axis_name)
        objectives = partials(retain_batch, forget_batch, **weights)
        retain, forget = (device_axes.total(objective(params), axis_name) for objective in objectives)
        return Paired(retain[0], forget[0]), Paired(retain[1], forget[1])

    return paired


def paired_partials(
    loss: Loss,
    *,
    forget_loss: Loss | None,
    microbatch_size: int | None,
    forget_groups: Groups | None,
    axis_name: AxisName | None,
) -> Callable[..., Paired[Partial]]:
    """What `paired_value_and_grad` sums over devices: `f(retain_batch, forget_batch, ...)` returns one function per objective.

    The examples' weights are summed over `axis_name` beforehand, so that the returned functions do not communicate: they may
    be called on some devices only.
    """
    if axis_name is not None and forget_groups is not None and forget_groups.implicit:
        raise ValueError(
            f"forget_groups: got implicit=True with axis_name={axis_name!r}, expected implicit=False on many devices"
        )
    of_forget = loss if forget_loss is None else forget_loss
    shared: dict[str, Any] = {"microbatch_size": microbatch_size, "axis_name": axis_name}

    def partials(
        retain_batch: Batch,
        forget_batch: Batch,
        *,
        retain_weights: Float[Array, " retain"] | None = None,
        forget_weights: Float[Array, " forget"] | None = None,
    ) -> Paired[Partial]:
        retain = mean_and_grad(loss, retain_batch, retain_weights, name="retain_batch", **shared)
        if forget_groups is None:
            return Paired(retain, mean_and_grad(of_forget, forget_batch, forget_weights, name="forget_batch", **shared))
        if forget_groups.implicit:
            grads = implicit(of_forget, forget_batch, forget_groups, forget_weights, microbatch_size=microbatch_size)
        else:
            grads = stacked(of_forget, forget_batch, forget_groups, forget_weights, **shared)
        return Paired(retain, grads)

    return partials
