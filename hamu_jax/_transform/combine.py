"""Any combination rule as an optax transformation of the retain and the forget gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from hamu_jax import rules
from hamu_jax._base import device_axes, validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._kernel.blocks import Blocks
from hamu_jax._kernel.budget import Distribution
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.combine_requests import combine_requests
from hamu_jax._transform.level import Level, as_level, what_remains
from hamu_jax._transform.options import WRAPPERS, check_options, check_rule
from hamu_jax._transform.state import Number, TransformState, at_step, check_params, empty_hardness
from hamu_jax._transform.step import Settings, step

_launch = jax.jit(step, static_argnames="settings")  # one launch when called outside jit; inlined inside


def combine(
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

    Args:
      rule: one of `hamu_jax.rules`.
      improvement: required improvement, in loss per unit of learning rate; a number or an optax schedule.
      radius: as in `transform`.
      blocks: as in `transform`.
      distribution: as in `transform`.
      clip_norm: as in `transform`.
      num_requests: as in `transform`, for a rule that takes many requests (`rules.projected`).
      retain_axis: as in `transform`, for such a rule.
      axis_name: as in `transform`.
      shard_axis_name: as in `transform`.
      until: as in `transform`, for a rule that promises a rise of the forget loss (`rules.hamu_q`, `rules.projected`).

    Returns:
      The transformation. Its `update` raises TypeError for gradients that are not floating-point, and ValueError for a
      missing `forget_grads`, pytrees that differ, naming the first path, or an unknown axis.

    Raises:
      ValueError: for a negative number or an unknown name.

    Source: docs/mathematics.md, section 7.
    """
    check_rule("rule", rule)
    validate.number("improvement", improvement, many=rule.many)
    if radius is not None:
        validate.number("radius", radius)
    clip_norm = check_options(blocks, distribution, clip_norm)
    validate.axis("retain_axis", retain_axis)
    validate.axis_name("axis_name", axis_name)
    validate.axis_name("shard_axis_name", shard_axis_name)
    level = as_level(until, rule)
    settings = Settings(rule, blocks, distribution, clip_norm, shard_axis_name)
    if rule.many:
        return combine_requests(
            improvement,
            radius,
            settings,
            num_requests=num_requests,
            protected=retain_axis is not None,
            axis_name=axis_name,
            until=level,
        )
    if num_requests is not None or retain_axis is not None:
        raise ValueError("num_requests, retain_axis: expected None with a rule for one forget objective")

    def init(params: optax.Params) -> TransformState:
        check_params(params)
        return TransformState(jnp.zeros([], jnp.int32), empty_hardness(params, blocks))

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
        retain, forget = device_axes.averaged(updates, forget_grads, axis_name, shard_axis_name)
        dtype = accumulation_dtype(retain, forget)
        required = at_step("improvement", improvement, state.step, dtype)
        longest = None if radius is None else at_step("radius", radius, state.step, dtype)
        remaining = what_remains(level, forget_value, state.step, step_scale, like=jnp.zeros((), dtype))
        combined, hardness = _launch(retain, forget, required, longest, settings, remaining=remaining)
        hardness = jax.tree.map(lambda new, old: new.astype(old.dtype), hardness, state.hardness)
        return combined, TransformState(jnp.asarray(optax.safe_increment(state.step)), hardness)

    return optax.GradientTransformationExtraArgs(init, update)


def check_reach(improvement: Number, radius: Number | None, distribution: Distribution) -> None:
    """Checks that a cosine is one: above 1 no step would be feasible."""
    if not isinstance(distribution, str) or callable(improvement) or isinstance(improvement, Tracer):
        return
    is_cosine = distribution == "cosine" or (distribution == "relative" and radius is None)
    if is_cosine and np.any(np.asarray(improvement) > 1):
        raise ValueError(
            f"improvement: got {validate.shown(improvement)} with distribution={distribution!r}, expected a cosine, at most 1: "
            "above it no step is feasible"
        )


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
