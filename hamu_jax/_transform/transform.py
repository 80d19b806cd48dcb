"""HAMU as an optax transformation, alone and with a learning rate, and as a measurement without a step."""

from typing import Any

import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from hamu_jax import rules
from hamu_jax._base import validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._kernel.blocks import Blocks
from hamu_jax._kernel.budget import Distribution
from hamu_jax._kernel.hardness import Hardness
from hamu_jax._kernel.inner_products import Tree
from hamu_jax._transform.combine import combine
from hamu_jax._transform.level import Level
from hamu_jax._transform.options import Variant, hamu_rule
from hamu_jax._transform.state import Number, get_hardness


def transform(
    improvement: Number,
    *,
    variant: Variant = "q",
    radius: Number | None = None,
    blocks: Blocks = "leaf",
    distribution: Distribution = "grad_norm",
    infeasible: rules.Infeasible = "scale",
    clip_norm: float | None = None,
    forget_axis: int | None = None,
    retain_axis: int | None = None,
    num_requests: int | None = None,
    axis_name: AxisName | None = None,
    shard_axis_name: AxisName | None = None,
    until: Level | float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Hardness-aware unlearning: the step that raises the forget loss as required at the least cost to the retain loss.

    Per block of parameters, in the units of `optax.sgd(1.0)`,

        minimise <g_r, d>   subject to   <g_f, d> >= q,   |d| <= r          (variant "q")
        maximise <g_f, d>   subject to   <g_r, d> <= -q,  |d| <= r          (variant "u")

    and the update is `-d`. A learning rate scales the step and the promise alike: `optax.sgd(eta)` raises the forget
    loss by `eta q` to first order, with a step of at most `eta r` per block. Weight decay, momentum or Adam after the
    transform changes the step and so voids the promise.

    Guarantees, to first order: with `blocks="global"` exactly the above; with several blocks each keeps its own
    constraint and ball, so the promises add up. Edge cases are those of `rules.hamu_q`; non-finite gradients give a zero
    step (see `combine`). Gradients below about 1e-19 in float32 have no square and count as zero.

    Args:
      improvement: required improvement `q`, in loss per unit of learning rate (the reference's `CONSTRAINT_RATIO`); at
        least 0; a number or an optax schedule.
      variant: `"q"` promises the forget improvement, `"u"` the retain improvement.
      radius: the longest step a block may take, per unit of learning rate; a number or an optax schedule. None is the
        paper's learning-rate radius: the norm of the block's retain gradient (variant "u": forget gradient).
      blocks: `"leaf"` solves one problem per tensor, `"global"` one for the whole model; or a function from a key path
        (`jax.tree_util`) to a hashable label, or to `hamu_jax.Stacked(label)` if the leaf's leading axis counts blocks.
      distribution: how blocks share `improvement`: `"grad_norm"`, `"uniform"`, `"softmax"`, `"relative"`, `"cosine"` or a
        function of the blocks' `|g_r|^2`, `|g_f|^2` and `kappa` that returns factors `[blocks]` (docs/mathematics.md,
        section 3). With `"relative"`, `improvement` is a cosine: feasible whenever it is below 1 and `radius` is None. With
        `"cosine"` it is the share of what the ball allows, `q r |g_f|`, whatever the radius: feasible whenever it is below 1.
      infeasible: `"scale"`, `"ascend"` or `"skip"`, as in `rules.hamu_q`.
      clip_norm: clip each of the two gradients to this norm over all blocks first. It is done on inner products, at no cost.
      forget_axis: 0 says that `forget_grads` carries `m` objectives (examples, or one per deletion request) on that leading
        axis, or is an `ImplicitStack` for them. Each is then promised its improvement (`rules.projected`): `improvement` is
        one number for all, or `[m]`; if not all can be met, every one gets the same, largest possible fraction.
        `get_requests` reads what was promised. `update` takes `forget_present`, booleans `[m]` (`Groups.present`): a request
        that is absent has no requirement. Without it, a request with a gradient of 0 counts as one that no step can help, and
        then there is no step for any.
      retain_axis: 0 says that the retain gradient carries groups on its leading axis: their mean is the objective, and none
        may get worse to first order.
      num_requests: `m`, needed with `forget_axis` unless `improvement` is `[m]`.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis (or axes) over which batches are split: both gradients are
        those of this device's examples, and are averaged over it first, every device counting alike. Leave it out if they
        have been averaged (`paired_value_and_grad(..., axis_name=...)`, which also weighs examples), and under `jit`, which
        needs no names.
      shard_axis_name: inside them, the axis over which every leaf of both gradients is split (FSDP): each device holds a
        shard, and inner products are summed over the axis. With `check_vma=True` leaves that are whole on every device are
        recognised; otherwise there must be none. A leaf of `Stacked` blocks must not be split along its leading axis.
      until: the forget loss at which unlearning is done, a number or a `Level`. `improvement` is then the most that is required
        of a step, and `update` takes the forget loss as `forget_value=` (and, if the update is scaled by another factor
        after the learning rate, that factor as `step_scale=`). Variant "q" only.

    Returns:
      An `optax.GradientTransformationExtraArgs`; see `combine` for its `update`. `get_hardness` reads its state.

    Raises:
      ValueError: for a negative or non-finite number, or an unknown name.

    Example:
      >>> import jax.numpy as jnp, optax, hamu_jax
      >>> tx = optax.chain(hamu_jax.transform(0.5, blocks="global"), optax.sgd(0.1))
      >>> params = {"w": jnp.array([1.0, 2.0])}
      >>> state = tx.init(params)
      >>> retain, forget = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}
      >>> updates, state = tx.update(retain, state, params, forget_grads=forget)
      >>> print(f"{hamu_jax.get_hardness(state).total_forget_change:.2f}")
      0.50

    Source: paper section 4; docs/mathematics.md, sections 1 to 4.
    """
    validate.axis("forget_axis", forget_axis)
    if forget_axis is not None and (variant != "q" or infeasible != "scale"):
        raise ValueError(f"forget_axis: got 0 with variant={variant!r}, infeasible={infeasible!r}, expected 'q' and 'scale'")
    rule = hamu_rule(variant, infeasible) if forget_axis is None else rules.projected()
    validate.number("improvement", improvement, many=rule.many)
    _check_reach(improvement, radius, distribution)
    return combine(
        rule,
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


def hamu(  # noqa: D417  (`transform` documents the options)
    learning_rate: optax.ScalarOrSchedule,
    improvement: Number,
    *,
    variant: Variant = "q",
    radius: Number | None = None,
    blocks: Blocks = "leaf",
    distribution: Distribution = "grad_norm",
    infeasible: rules.Infeasible = "scale",
    clip_norm: float | None = None,
    forget_axis: int | None = None,
    retain_axis: int | None = None,
    num_requests: int | None = None,
    axis_name: AxisName | None = None,
    shard_axis_name: AxisName | None = None,
    until: Level | float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`transform` chained with a learning rate: plain gradient steps, the form in which its promises hold.

    All options but `learning_rate` are those of `transform`. `optax.inject_hyperparams(hamu)` works for the learning rate,
    improvement and radius; name numbers that are compiled in (`clip_norm`, `num_requests`, `forget_axis`) and functions
    (`blocks`, `distribution`) in its `static_args`.

    Args:
      learning_rate: a number or an optax schedule.
      until: the forget loss at which unlearning is done; the level of a plain number has this learning rate.

    Raises:
      ValueError: as `transform`.

    Source: paper algorithm 1.
    """
    validate.number("learning_rate", learning_rate)
    if until is not None and not isinstance(until, Level):
        until = Level(until, learning_rate=learning_rate)
    unlearning = transform(
        improvement,
        variant=variant,
        radius=radius,
        blocks=blocks,
        distribution=distribution,
        infeasible=infeasible,
        clip_norm=clip_norm,
        forget_axis=forget_axis,
        retain_axis=retain_axis,
        num_requests=num_requests,
        axis_name=axis_name,
        shard_axis_name=shard_axis_name,
        until=until,
    )
    return optax.chain(unlearning, optax.scale_by_learning_rate(learning_rate))


def planned(
    improvement: Number, *, variant: Variant, infeasible: rules.Infeasible, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """`transform` for a step that is measured and not taken: its improvement may be infeasible."""
    return combine(hamu_rule(variant, infeasible), improvement=improvement, **options)


def hardness(  # noqa: D417  (`transform` documents the options)
    retain_grads: Tree,
    forget_grads: Tree,
    improvement: float | Float[Array, ""] = 0.0,
    *,
    variant: Variant = "q",
    radius: float | Float[Array, ""] | None = None,
    blocks: Blocks = "leaf",
    distribution: Distribution = "grad_norm",
    infeasible: rules.Infeasible = "scale",
    clip_norm: float | None = None,
) -> Hardness:
    """Measures how hard unlearning is at one point: what `transform` would record, without a step.

    The keyword arguments are those of `transform`; where the requirement can't be met, the predicted changes are of the step
    that `infeasible` names.

    Args:
      retain_grads: gradient of the retain loss, a pytree.
      forget_grads: gradient of the forget loss, the same structure.
      improvement: as in `transform`; with 0 only the thresholds and the predicted changes lose their meaning.

    Returns:
      The measurement; `block_labels(retain_grads, blocks)` names its entries.

    Raises:
      TypeError, ValueError: as `transform` and its `update`.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> measured = hamu_jax.hardness(jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]), improvement=0.5)
      >>> print(f"{measured.total_kappa:.2f} {measured.total_angle:.0f}", hamu_jax.Regime(measured.regime[0]).name)
      1.00 45 RECTIFIED

    Source: paper section 4; docs/mathematics.md, sections 2 and 3.
    """
    tx = planned(
        improvement,
        variant=variant,
        radius=radius,
        blocks=blocks,
        distribution=distribution,
        infeasible=infeasible,
        clip_norm=clip_norm,
    )
    for name, grads in (("retain_grads", retain_grads), ("forget_grads", forget_grads)):
        validate.gradients(name, grads, some=True)
    return get_hardness(tx.update(retain_grads, tx.init(retain_grads), forget_grads=forget_grads)[1])


def _check_reach(improvement: Number, radius: Number | None, distribution: Distribution) -> None:
    """Checks that an improvement that is a cosine is at most 1: above it no step is feasible."""
    if not isinstance(distribution, str) or callable(improvement) or isinstance(improvement, Tracer):
        return
    is_cosine = distribution == "cosine" or (distribution == "relative" and radius is None)
    if is_cosine and np.any(np.asarray(improvement) > 1):
        raise ValueError(
            f"improvement: got {validate.shown(improvement)} with distribution={distribution!r}, expected a cosine, at most 1: "
            "above it no step is feasible"
        )
