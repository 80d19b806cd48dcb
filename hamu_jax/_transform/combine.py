"""The optax transformation of a combination rule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hamu_jax import rules
from hamu_jax._base import device_axes, validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._kernel.blocks import Blocks
from hamu_jax._kernel.budget import Distribution
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.combine_requests import combine_requests
from hamu_jax._transform.level import Level, what_remains
from hamu_jax._transform.options import WRAPPERS, Options
from hamu_jax._transform.state import Number, TransformState, at_step, check_params, empty_hardness
from hamu_jax._transform.step import step

_launch = jax.jit(step, static_argnames="settings")  # one launch when called outside jit; inlined inside


def combine(  # noqa: D417  (`transform` documents the options)
    rule: rules.Rule,
    *,
    improvement: Number = 0.0,
    radius: Number | None = None,
    blocks: Blocks = "leaf",
    distribution: Distribution = "grad_norm",
    clip_norm: float | None = None,
    num_requests: int | None = None,
    retain_axis: int | None = None,
    axis_name: AxisName | None = None,
    shard_axis_name: AxisName | None = None,
    until: Level | float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes any combination rule an optax transformation of the retain and the forget gradient.

    The transformation's `update` takes the retain gradient as `updates` and the forget gradient as the keyword
    `forget_grads`, and returns the combination that the rule decides, to be subtracted (`optax.sgd`). Sums over
    parameters are formed in float32 or wider and the result has the retain gradient's dtype. If a gradient is not finite
    the result is zero and `get_hardness(state).finite` says in which block.

    A rule that requires nothing (`rules.gdiff`, `rules.nash`, ...) ignores `improvement`, `radius` and `distribution`: they
    only enter the thresholds that the state reports.

    All options but `rule` are those of `transform`; `num_requests` and `retain_axis` are for a rule that takes many requests
    (`rules.projected`), `until` is for one that promises a rise of the forget loss (`rules.hamu_q`, `rules.projected`).

    Args:
      rule: one of `hamu_jax.rules`.

    Returns:
      The transformation. Its `update` raises TypeError for gradients that are not floating-point, and ValueError for a
      missing `forget_grads`, pytrees that differ, naming the first path, or an unknown axis.

    Raises:
      ValueError: for a negative number or an unknown name.

    Source: docs/mathematics.md, section 7.
    """
    options = Options(
        rule=rule,
        improvement=improvement,
        radius=radius,
        blocks=blocks,
        distribution=distribution,
        clip_norm=clip_norm,
        num_requests=num_requests,
        retain_axis=retain_axis,
        axis_name=axis_name,
        shard_axis_name=shard_axis_name,
        until=until,
    )
    return (combine_requests if rule.many else _combine_two_gradients)(options)


def _combine_two_gradients(options: Options) -> optax.GradientTransformationExtraArgs:
    """`combine` for a rule that takes one retain and one forget gradient."""
    settings, level = options.settings, options.level

    def init(params: optax.Params) -> TransformState:
        check_params(params)
        return TransformState(jnp.zeros([], jnp.int32), empty_hardness(params, settings.blocks))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        forget_grads: optax.Updates | None = None,
        forget_value: Float[Array, ""] | None = None,
        step_scale: Float[Array, ""] | float = 1.0,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TransformState]:
        del params, extra_args
        _check_gradients(updates, forget_grads)
        retain, forget = device_axes.averaged(updates, forget_grads, options.axis_name, settings.shard_axis)
        dtype = accumulation_dtype(retain, forget)
        required = at_step("improvement", options.improvement, state.step, dtype)
        longest = None if options.radius is None else at_step("radius", options.radius, state.step, dtype)
        remaining = what_remains(level, forget_value, state.step, step_scale, like=jnp.zeros((), dtype))
        combined, hardness = _launch(retain, forget, required, longest, settings, remaining=remaining)
        hardness = jax.tree.map(lambda new, old: new.astype(old.dtype), hardness, state.hardness)
        return combined, TransformState(jnp.asarray(optax.safe_increment(state.step)), hardness)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_gradients(retain: Tree, forget: Tree | None) -> None:
    """Checks the two gradients while tracing."""
    if forget is None:
        raise ValueError(
            "forget_grads: got nothing, expected the gradient of the forget loss: "
            f"tx.update(retain_grads, state, params, forget_grads=forget_grads) ({WRAPPERS})"
        )
    if isinstance(forget, ImplicitStack):
        raise ValueError("forget_grads: got an ImplicitStack, expected a gradient; with forget_axis=0 the transform takes it")
    validate.gradients("updates (the retain gradient)", retain, some=True)
    validate.gradients("forget_grads", forget)
    validate.same_structure("forget_grads", forget, "updates (the retain gradient)", retain, hint=WRAPPERS)
