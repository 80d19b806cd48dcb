"""The optax transformation with a guarantee for every request."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.level import what_remains
from hamu_jax._transform.options import WRAPPERS, Options
from hamu_jax._transform.state import TransformState, at_step, check_params, count_blocks, empty_hardness
from hamu_jax._transform.step_requests import Requests, step_requests

_launch = jax.jit(step_requests, static_argnames=("settings", "protected"))


def combine_requests(options: Options) -> optax.GradientTransformationExtraArgs:
    """`combine` for a rule that takes many forget objectives; see `transform`, whose `forget_axis` leads here."""
    count, settings, level = _count_requests(options), options.settings, options.level
    axis_name, protected = options.axis_name, options.retain_axis is not None
    if level is not None and level.count not in (None, count):
        raise ValueError(f"until: got {level.count} levels, expected 1 or {count}, one for each request")

    def init(params: optax.Params) -> TransformState:
        check_params(params)
        dtype, blocks = accumulation_dtype(params), count_blocks(params, settings.blocks)
        multipliers, change = jnp.zeros((blocks, count), dtype), jnp.zeros(count, dtype)
        nothing = Requests(jnp.zeros(blocks, dtype), multipliers, jnp.zeros(blocks, dtype), change, jnp.zeros(count, bool))
        return TransformState(jnp.zeros([], jnp.int32), empty_hardness(params, settings.blocks), nothing)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        forget_grads: optax.Updates | ImplicitStack | None = None,
        forget_present: Bool[Array, " m"] | None = None,
        forget_value: Float[Array, " m"] | None = None,
        step_scale: Float[Array, ""] | float = 1.0,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TransformState]:
        del params, extra_args
        _check_gradients(updates, forget_grads, count, protected)
        if isinstance(forget_grads, ImplicitStack) and (axis_name, settings.shard_axis) != (None, None):
            raise ValueError("forget_grads: got an ImplicitStack on many devices, expected the gradients themselves")
        retain, forget = device_axes.averaged(updates, forget_grads, axis_name, settings.shard_axis)
        dtype = accumulation_dtype(updates)
        improvement = at_step("improvement", options.improvement, state.step, dtype, (count,))
        required = jnp.zeros(count, dtype) + jnp.atleast_1d(improvement)
        longest = None if options.radius is None else at_step("radius", options.radius, state.step, dtype)
        present = _present(forget_grads, forget_present, count, axis_name)
        remaining = what_remains(level, forget_value, state.step, step_scale, like=required)
        extra = {"present": present, "protected": protected, "remaining": remaining}
        combined, *measured = _launch(retain, forget, required, longest, settings, **extra)
        hardness, requests = jax.tree.map(lambda new, old: new.astype(old.dtype), tuple(measured), tuple(state[1:]))
        return combined, TransformState(jnp.asarray(optax.safe_increment(state.step)), hardness, requests)

    return optax.GradientTransformationExtraArgs(init, update)


def _count_requests(options: Options) -> int:
    """The number of requests, from `improvement` if it is `[m]`, and from `num_requests`."""
    improvement, num_requests = options.improvement, options.num_requests
    if num_requests is not None:
        validate.integer("num_requests", num_requests)
    if callable(improvement) or jnp.ndim(improvement) != 1:
        if num_requests is None:
            raise ValueError("num_requests: got None, expected how many requests there are, or an improvement for each, [m]")
        return int(num_requests)
    count = int(jnp.shape(improvement)[0])
    if num_requests not in (None, count):
        raise ValueError(f"num_requests: got {num_requests}, expected {count} as in improvement")
    return validate.integer("num_requests", count)


def _present(forget: Tree | ImplicitStack | None, present: Any, count: int, axis_name: AxisName | None) -> Bool[Array, " m"]:
    """Which requests have an example: on any of the devices, and in the implicit stack if the gradients are one."""
    if present is None:
        present = jnp.ones(count, bool)
    else:
        shape, dtype = jnp.shape(present), jnp.result_type(present)
        if shape != (count,) or dtype != jnp.bool_:
            raise ValueError(f"forget_present: got {dtype} of shape {shape}, expected booleans of shape ({count},)")
        present = device_axes.total(device_axes.per_device(jnp.asarray(present, jnp.int32), axis_name), axis_name) > 0
    return present & forget.present() if isinstance(forget, ImplicitStack) else present


def _check_gradients(retain: Tree, forget: Tree | ImplicitStack | None, count: int, protected: bool) -> None:
    """Checks the gradients while tracing."""
    if forget is None:
        raise ValueError(
            f"forget_grads: got nothing, expected the gradients of {count} forget losses, stacked on axis 0 ({WRAPPERS})"
        )
    names = "updates (the retain gradient)", "forget_grads"
    validate.gradients(names[0], retain, some=True)
    if protected:
        validate.batch(names[0], retain)
    if isinstance(forget, ImplicitStack):
        row, forget_count = forget.params, forget.count
    else:
        validate.gradients(names[1], forget)
        forget_count = validate.batch(names[1], forget)
        row = jax.tree.map(_without_axis, forget)
    if forget_count != count:
        raise ValueError(f"forget_grads: got {forget_count} requests on axis 0, expected {count}")
    retain_row = jax.tree.map(_without_axis, retain) if protected else retain
    validate.same_structure("forget_grads (one request)", row, names[0], retain_row, hint=WRAPPERS)


def _without_axis(x: Array) -> jax.ShapeDtypeStruct:
    """The shape of one row."""
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
