"""One step with a guarantee for every request: what `step` does, for many forget objectives at once."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.implicit_stack_operations import stack_products, stack_sum
from hamu_jax._kernel.blocks import Partition, partition
from hamu_jax._kernel.budget import Budget, shares
from hamu_jax._kernel.hardness import Geometry, Hardness
from hamu_jax._kernel.inner_products import Tree, cross_gram, ratio, weighted_rows
from hamu_jax._transform.level import Remaining
from hamu_jax._transform.step import Settings, clipping, describe, limited, radii, usable
from hamu_jax.rules import Problem, Rule


class Requests(NamedTuple):
    """What the last step promised to each of `m` forget objectives.

    Attributes:
      fraction: `[blocks]`, the common fraction `t` of all requirements that the block's ball allows; 1 if all are met.
      multipliers: `[blocks, m]`, how much each request binds: 0 means that the step meets it anyway.
      kkt: `[blocks]`, the largest violation of an optimality condition of the block's problem, relative.
      change: `[m]`, predicted change of each forget loss, per unit of learning rate.
      present: `[m]`, whether the request has an example in the batch: one without has no constraint and is
        left out of means; its multipliers and change are 0.
    """

    fraction: Float[Array, " blocks"]
    multipliers: Float[Array, "blocks m"]
    kkt: Float[Array, " blocks"]
    change: Float[Array, " m"]
    present: Bool[Array, " m"]


def step_requests(
    retain: Tree,
    forget: Tree | ImplicitStack,
    improvement: Float[Array, " m"],
    radius: Float[Array, ""] | None,
    settings: Settings,
    *,
    present: Bool[Array, " m"],
    protected: bool,
    remaining: Remaining | None = None,
) -> tuple[Tree, Hardness, Requests]:
    """The update (to be subtracted), the hardness of the mean request, and what each request was promised.

    Args:
      retain: the retain gradient; with `protected`, `[k, ...]`, one per group: their mean is the objective, and no group's
        loss may rise to first order.
      forget: `[m, ...]`, the gradients of the forget losses, or an implicit stack of them.
      improvement: the required improvement of each.
      radius: as in `step.step`.
      settings: as in `step.step`.
      present: which requests have an example; the gradients of the others count as 0, and they have no constraint.
      protected: whether the retain gradient has a leading axis of groups.
      remaining: what each forget loss has left to its level, as in `step.limited`.
    """
    objective = jax.tree.map(lambda x: jnp.mean(x, axis=0), retain) if protected else retain
    blocks = partition(objective, settings.blocks, settings.shard_axis)
    lowered = _lowered(forget, present)
    stacks = [jax.tree.map(lambda x: x[None], objective), lowered, *([retain] if protected else [])]
    raw = _without(_joint_gram(stacks, blocks), present)
    scale = clipping(raw, settings.clip_norm)
    gram = raw * scale[None, :, None] * scale[None, None, :]
    budget = _allocate(gram, jnp.where(present, improvement, 0.0), radius, settings)
    clip = scale[1 : 1 + improvement.shape[0]]
    budget = budget._replace(improvement=limited(budget.improvement, remaining, clip))
    protected_rows = gram.shape[-1] - 1 - improvement.shape[0]
    required = jnp.pad(budget.improvement, ((0, 0), (0, protected_rows)))  # a protected group: its loss must not rise
    combination = jax.vmap(settings.rule.solve)(Problem(gram, jnp.zeros_like(budget.radius), required, budget.radius))
    finite = usable(jnp.all(jnp.isfinite(gram), axis=(-2, -1)), budget)
    fall = jnp.einsum("bij,bj->bi", gram, combination.rows, precision="highest") / scale[None, :]
    change = jnp.where(jnp.all(finite), fall[:, 1 : 1 + improvement.shape[0]], 0.0)
    hardness = _describe_mean(
        gram,
        budget,
        _number(present, gram.dtype),
        regime=combination.regime,
        change=jnp.stack([-fall[:, 0], -jnp.sum(change, axis=1) / _number(present, gram.dtype)], axis=1),
        finite=finite,
        rule=settings.rule,
    )
    update = _weighted_sum(stacks, combination.rows * scale[None, :], blocks, keep=jnp.all(finite))
    assert combination.solution is not None, "a rule for many requests gives one"
    fraction, multipliers, kkt = combination.solution
    multipliers = multipliers[:, : improvement.shape[0]]
    return update, hardness, Requests(fraction, multipliers, kkt, jnp.sum(change, axis=0), present)


def _lowered(forget: Tree | ImplicitStack, present: Bool[Array, " m"]) -> Tree | ImplicitStack:
    """Minus the gradients of the requests that are present, 0 for the others: selected, since 0 times NaN is not 0."""
    if isinstance(forget, ImplicitStack):
        counted, lowered = present[jnp.minimum(forget.member, forget.count - 1)], forget.negative()
        return dataclasses.replace(lowered, shares=jnp.where(counted, lowered.shares, 0.0))
    return jax.tree.map(lambda x: jnp.where(present.reshape(-1, *(1,) * (x.ndim - 1)), -x, 0), forget)


def _joint_gram(stacks: Sequence[Tree | ImplicitStack], blocks: Partition) -> Float[Array, "blocks m m"]:
    """The Gram matrix of all stacks' rows, without stacking them."""
    explicit = {i: stack for i, stack in enumerate(stacks) if not isinstance(stack, ImplicitStack)}
    inner = {(i, j): cross_gram(explicit[i], explicit[j], blocks) for i in explicit for j in explicit if i <= j}
    for i, stack in enumerate(stacks):
        if isinstance(stack, ImplicitStack):
            inner[i, i], cross = stack_products(stack, list(explicit.values()), blocks)
            inner |= {(j, i): products for j, products in zip(explicit, cross, strict=True)}
    indices = range(len(stacks))
    return jnp.concatenate(
        [
            jnp.concatenate([inner[i, j] if (i, j) in inner else jnp.swapaxes(inner[j, i], -1, -2) for j in indices], axis=-1)
            for i in indices
        ],
        axis=-2,
    )


def _weighted_sum(
    stacks: Sequence[Tree | ImplicitStack], coefficients: Float[Array, "blocks rows"], blocks: Partition, *, keep: Array
) -> Tree:
    """The weighted sum of all stacks' rows; an implicit stack contributes its weighted sum as a single row."""
    sizes = [x.count if isinstance(x, ImplicitStack) else jax.tree.leaves(x)[0].shape[0] for x in stacks]
    ends = list(itertools.accumulate(sizes))
    rows: list[Tree] = []
    weights: list[Array] = []
    for stack, begin, end in zip(stacks, [0, *ends], ends, strict=False):
        of_stack = coefficients[:, begin:end]
        if isinstance(stack, ImplicitStack):
            rows.append(jax.tree.map(lambda x: x[None], stack_sum(stack, of_stack, blocks)))
            weights.append(jnp.ones_like(of_stack[:, :1]))
        else:
            rows.append(stack)
            weights.append(of_stack)
    return weighted_rows(rows, jnp.concatenate(weights, axis=1), blocks, keep=keep)


def _without(gram: Float[Array, "blocks k k"], present: Bool[Array, " m"]) -> Float[Array, "blocks k k"]:
    """The Gram matrix with the rows of absent requests set to 0."""
    is_present = jnp.ones(gram.shape[-1], bool).at[1 : 1 + present.shape[0]].set(present)
    return jnp.where(is_present[:, None] & is_present[None, :], gram, 0.0)


def _number(present: Bool[Array, " m"], dtype: Any) -> Float[Array, ""]:
    """The number of requests in a mean; 1 if there is none, whose sums are 0."""
    return jnp.maximum(jnp.sum(present), 1).astype(dtype)


def _allocate(
    gram: Float[Array, "blocks k k"], improvement: Float[Array, " m"], radius: Float[Array, ""] | None, settings: Settings
) -> Budget:
    """Each request's requirement, divided among the blocks independently of the others: `improvement` is `[blocks, m]`."""
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    rows = slice(1, 1 + improvement.shape[0])

    longest = radii(squares[:, 0], radius)
    free = longest**2 if settings.distribution == "cosine" else squares[:, 0]

    def of_request(square: Array, inner: Array) -> Array:
        return shares(settings.distribution, free, square, -inner)

    weights = jax.vmap(of_request, in_axes=1, out_axes=1)(squares[:, rows], gram[:, 0, rows])
    return Budget(improvement[None, :] * weights, longest)


def _describe_mean(
    gram: Float[Array, "blocks k k"],
    budget: Budget,
    number: Float[Array, ""],
    *,
    regime: Int[Array, " blocks"],
    change: Float[Array, "blocks 2"],
    finite: Bool[Array, " blocks"],
    rule: Rule,
) -> Hardness:
    """The hardness of the mean of the `number` requests that are present; the residual comes from the Gram matrix."""
    rows = slice(1, 1 + budget.improvement.shape[1])
    free, inner = jnp.sqrt(gram[:, 0, 0]), jnp.sum(gram[:, 0, rows], axis=1) / number
    mean = jnp.sqrt(jnp.maximum(jnp.sum(gram[:, rows, rows], axis=(1, 2)), 0.0)) / number
    along = ratio(inner, mean)
    residual = jnp.sqrt(jnp.maximum((free - along) * (free + along), 0.0))
    mean_budget = Budget(jnp.sum(budget.improvement, axis=1) / number, budget.radius)
    geometry = Geometry(free, mean, inner, residual)
    return describe(geometry, mean_budget, regime=regime, change=change, finite=finite, rule=rule)
