"""One step with a promise to every request: the parts of `_step`, for many forget objectives at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._blocks import Partition, partition
from hamu_jax._budget import Budget, shares
from hamu_jax._gram import Tree, cross_gram, ratio, weighted_rows
from hamu_jax._hardness import Geometry, Hardness
from hamu_jax._step import Settings, clipping, describe, radii
from hamu_jax.rules import Problem, Rule


class Requests(NamedTuple):
    """What the last step promised to each of `m` forget objectives.

    Attributes:
      fraction: `[blocks]`, the common fraction `t` of all requirements that the block's ball allows; 1 if all are met.
      multipliers: `[blocks, m]`, how much each request binds: at 0 it is met without being asked for.
      kkt: `[blocks]`, the largest violation of an optimality condition of the block's problem, relative.
      change: `[m]`, predicted change of each forget loss, per unit of learning rate.
    """

    fraction: Float[Array, " blocks"]
    multipliers: Float[Array, "blocks m"]
    kkt: Float[Array, " blocks"]
    change: Float[Array, " m"]


def step_requests(
    retain: Tree,
    forget: Tree,
    improvement: Float[Array, " m"],
    radius: Float[Array, ""] | None,
    settings: Settings,
    *,
    protected: bool,
) -> tuple[Tree, Hardness, Requests]:
    """The update (to be subtracted), the hardness of the mean request, and what each request was promised.

    Args:
      retain: the retain gradient; with `protected`, `[k, ...]`, one a group: their mean is the objective, and no group's
        loss may rise to first order.
      forget: `[m, ...]`, the gradients of the forget losses.
      improvement: the required improvement of each.
      radius: as in `_step.step`.
      settings: as in `_step.step`.
      protected: whether the retain gradient has a leading axis of groups.
    """
    objective = jax.tree.map(lambda x: jnp.mean(x, axis=0), retain) if protected else retain
    blocks = partition(objective, settings.blocks, settings.shard_axis)
    stacks = [jax.tree.map(lambda x: x[None], objective), jax.tree.map(jnp.negative, forget)]
    stacks += [retain] if protected else []
    raw = _joint_gram(stacks, blocks)
    scale = clipping(raw, settings.clip_norm)
    gram = raw * scale[None, :, None] * scale[None, None, :]
    budget = _allocate(gram, improvement, radius, settings)
    others = gram.shape[-1] - 1 - improvement.shape[0]
    required = jnp.pad(budget.improvement, ((0, 0), (0, others)))  # a protected group: its loss must not rise
    combination = jax.vmap(settings.rule.solve)(Problem(gram, jnp.zeros_like(budget.radius), required, budget.radius))
    finite = jnp.all(jnp.isfinite(gram), axis=(-2, -1))
    fall = jnp.einsum("bij,bj->bi", gram, combination.rows, precision="highest") / scale[None, :]
    change = jnp.where(jnp.all(finite), fall[:, 1 : 1 + improvement.shape[0]], 0.0)
    hardness = _describe_mean(
        gram,
        budget,
        regime=combination.regime,
        change=jnp.stack([-fall[:, 0], -jnp.mean(change, axis=1)], axis=1),
        finite=finite,
        rule=settings.rule,
    )
    update = weighted_rows(stacks, combination.rows * scale[None, :], blocks, keep=jnp.all(finite))
    assert combination.solution is not None, "a rule for many requests gives one"
    fraction, multipliers, kkt = combination.solution
    return update, hardness, Requests(fraction, multipliers[:, : improvement.shape[0]], kkt, jnp.sum(change, axis=0))


def _joint_gram(stacks: list[Tree], blocks: Partition) -> Float[Array, "blocks m m"]:
    """The Gram matrix of all stacks' rows, without stacking them."""
    upper = {(i, j): cross_gram(stacks[i], stacks[j], blocks) for i in range(len(stacks)) for j in range(i, len(stacks))}
    parts = range(len(stacks))
    return jnp.concatenate(
        [
            jnp.concatenate([upper[i, j] if i <= j else jnp.swapaxes(upper[j, i], -1, -2) for j in parts], axis=-1)
            for i in parts
        ],
        axis=-2,
    )


def _allocate(
    gram: Float[Array, "blocks k k"], improvement: Float[Array, " m"], radius: Float[Array, ""] | None, settings: Settings
) -> Budget:
    """Every request's requirement, shared out among the blocks as if it were alone: `improvement` is `[blocks, m]`."""
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    rows = slice(1, 1 + improvement.shape[0])

    def of_one(square: Array, inner: Array) -> Array:
        return shares(settings.distribution, squares[:, 0], square, -inner)

    weights = jax.vmap(of_one, in_axes=1, out_axes=1)(squares[:, rows], gram[:, 0, rows])
    return Budget(improvement[None, :] * weights, radii(squares[:, 0], radius))


def _describe_mean(
    gram: Float[Array, "blocks k k"],
    budget: Budget,
    *,
    regime: Int[Array, " blocks"],
    change: Float[Array, "blocks 2"],
    finite: Bool[Array, " blocks"],
    rule: Rule,
) -> Hardness:
    """The hardness of the mean of the requests; its residual comes from the Gram matrix (no second pass)."""
    rows = slice(1, 1 + budget.improvement.shape[1])
    free, inner = jnp.sqrt(gram[:, 0, 0]), jnp.mean(gram[:, 0, rows], axis=1)
    mean = jnp.sqrt(jnp.maximum(jnp.mean(gram[:, rows, rows], axis=(1, 2)), 0.0))
    along = ratio(inner, mean)
    residual = jnp.sqrt(jnp.maximum((free - along) * (free + along), 0.0))
    mean_budget = Budget(jnp.mean(budget.improvement, axis=1), budget.radius)
    geometry = Geometry(free, mean, inner, residual)
    return describe(geometry, mean_budget, regime=regime, change=change, finite=finite, rule=rule)
