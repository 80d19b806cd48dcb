"""One step: Gram matrices, budget, rule, combination. The same code for every rule and every kind of block."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._base.device_axes import AxisName
from hamu_jax._kernel.blocks import Blocks, Partition, partition
from hamu_jax._kernel.budget import Budget, Distribution, shares
from hamu_jax._kernel.hardness import Geometry, Hardness, Regime, whole
from hamu_jax._kernel.inner_products import Residual, Tree, combine_rows, gram, ratio, residual
from hamu_jax._kernel.packing import Packing, packing
from hamu_jax._transform.level import Remaining
from hamu_jax.rules import Combination, Problem, Rule


@dataclasses.dataclass(frozen=True)
class Settings:
    """The static options of a step: the rule, how blocks share the budget, how devices share the gradients."""

    rule: Rule
    blocks: Blocks
    distribution: Distribution
    clip_norm: float | None
    shard_axis: AxisName | None = None


class Rows(NamedTuple):
    """Two gradients as the rule's objectives: row 0 is the free one, row 1 the guaranteed one.

    Row `i` is `signs[i]` times `grads[i]`. The product is never formed: a negated gradient would be one more array of the
    size of the parameters, which XLA keeps in memory because everything that follows reads it.

    Attributes:
      grads: the gradients, unchanged.
      signs: -1 for a loss that must rise.
    """

    grads: tuple[Tree, Tree]
    signs: tuple[int, int]


class Measurement(NamedTuple):
    """All that a rule needs of two gradients.

    Attributes:
      gram: `[blocks, 2, 2]`, of the clipped rows.
      residual: of the unclipped gradients.
      clip: `[2]`, the clipping factors.
      scale: `[2]`, the factors from the gradients to the clipped rows: the clipping factors with the rows' signs.
    """

    gram: Float[Array, "blocks 2 2"]
    residual: Residual
    clip: Float[Array, "2"]
    scale: Float[Array, "2"]

    def geometry(self) -> Geometry:
        """Norms, inner product and residual of the clipped rows, per block."""
        norms = jnp.sqrt(jnp.diagonal(self.gram, axis1=-2, axis2=-1))
        return Geometry(norms[:, 0], norms[:, 1], self.gram[:, 0, 1], self.residual.norm * self.clip[0])


def order(retain: Tree, forget: Tree, rule: Rule) -> Rows:
    """The rows in the rule's order. The sign of the forget gradient is flipped here and nowhere else."""
    if rule.guaranteed == "forget":
        return Rows((retain, forget), (1, -1))
    return Rows((forget, retain), (-1, 1))


def prepare(retain: Tree, forget: Tree, settings: Settings) -> tuple[Rows, Partition, Packing]:
    """The rows and their blocks, with small leaves stacked, and the `Packing` that unstacks them."""
    blocks = partition(retain, settings.blocks, settings.shard_axis)
    packed = packing(retain, forget, blocks)
    return order(packed.pack(retain), packed.pack(forget), settings.rule), packed.partition(blocks), packed


def measure(rows: Rows, blocks: Partition, clip_norm: float | None) -> Measurement:
    """Two passes over the gradients: inner products, then the residual."""
    raw = gram(rows.grads, blocks)
    clip = clipping(raw, clip_norm)
    scale = clip * jnp.asarray(rows.signs, clip.dtype)
    return Measurement(raw * scale[None, :, None] * scale[None, None, :], residual(*rows.grads, raw, blocks), clip, scale)


def allocate(
    measured: Measurement,
    improvement: Float[Array, ""],
    radius: Float[Array, ""] | None,
    settings: Settings,
    remaining: Remaining | None = None,
) -> Budget:
    """Divides the required improvement among the blocks; `radius=None` means the norm of the free gradient."""
    squares = jnp.diagonal(measured.gram, axis1=-2, axis2=-1)
    longest = radii(squares[:, 0], radius)
    free, guaranteed = longest**2 if settings.distribution == "cosine" else squares[:, 0], squares[:, 1]
    retain, forget = (free, guaranteed) if settings.rule.guaranteed == "forget" else (guaranteed, free)
    weights = shares(settings.distribution, retain, forget, -measured.gram[:, 0, 1])
    required = improvement * weights
    if remaining is None:
        return Budget(required, longest)
    most = required * ratio(remaining.most * measured.clip[1], jnp.sum(required))
    return Budget(limited(required, remaining, measured.clip[1]), longest, most)


def limited(required: Float[Array, "..."], remaining: Remaining | None, clip: Float[Array, "..."]) -> Float[Array, "..."]:
    """The shares, scaled down so that all blocks together require no more than the remaining rise to the level.

    Args:
      required: `[blocks]`, each block's share; `[blocks, m]` of `m` requests.
      remaining: the remaining rise to the level; an allowed fall is limited in the same way. None: no level.
      clip: the factor by which the gradient of the forget loss was clipped.
    """
    if remaining is None:
        return required
    share = jnp.clip(ratio(remaining.required * clip, jnp.sum(required, axis=0)), -1.0, 1.0)
    return required * jnp.broadcast_to(share, required.shape)


def radii(free_square: Float[Array, " blocks"], radius: Float[Array, ""] | None) -> Float[Array, " blocks"]:
    """Every block's radius: the norm of its free gradient (the learning-rate radius) unless one is given."""
    if radius is None:
        return jnp.sqrt(free_square)
    return jnp.broadcast_to(radius, free_square.shape).astype(free_square.dtype)


def usable(finite: Bool[Array, " blocks"], budget: Budget) -> Bool[Array, " blocks"]:
    """Whether a block's gradients are finite and, where all blocks' are, its share is a number and its radius a length.

    The results of schedules and distribution functions are known only here; negative ones have become NaN.
    """
    shares_fit = jnp.all(jnp.isfinite(budget.improvement), axis=tuple(range(1, budget.improvement.ndim)))
    fits = shares_fit & jnp.isfinite(budget.radius) & (budget.radius >= 0)
    return finite & (fits | ~jnp.all(finite))  # a gradient that is not finite spoils the shares of other blocks


def solve_blocks(measured: Measurement, budget: Budget, rule: Rule) -> Combination:
    """The rule's answer for every block."""
    problem = Problem(measured.gram, measured.geometry().residual, budget.improvement, budget.radius, budget.most)
    return jax.vmap(rule.solve)(problem)


def decrease(measured: Measurement, combination: Combination) -> Float[Array, "blocks 2"]:
    """Predicted decrease of the rows' losses, per unit of learning rate, in the units of the (unclipped) losses."""
    along = jnp.einsum("bij,bj->bi", measured.gram, combination.rows, precision="highest")
    free_only = combination.residual * measured.geometry().residual ** 2
    return (along + jnp.stack([free_only, jnp.zeros_like(free_only)], axis=-1)) / measured.clip[None, :]


def step(
    retain: Tree,
    forget: Tree,
    improvement: Float[Array, ""],
    radius: Float[Array, ""] | None,
    settings: Settings,
    *,
    remaining: Remaining | None = None,
) -> tuple[Tree, Hardness]:
    """The update (to be subtracted) and the hardness that was measured."""
    rows, blocks, packed = prepare(retain, forget, settings)
    measured = measure(rows, blocks, settings.clip_norm)
    budget = allocate(measured, improvement, radius, settings, remaining)
    combination = solve_blocks(measured, budget, settings.rule)
    geometry = measured.geometry()
    finite = usable(jnp.all(jnp.isfinite(measured.gram), axis=(-2, -1)) & jnp.isfinite(geometry.residual), budget)
    hardness = describe(
        geometry,
        budget,
        regime=combination.regime,
        change=-decrease(measured, combination),
        finite=finite,
        rule=settings.rule,
    )
    keep = jnp.all(hardness.finite)
    combined = update(rows, measured, combination, blocks, keep=keep)
    return packed.unpack(combined, retain, keep), hardness


def update(rows: Rows, measured: Measurement, combination: Combination, blocks: Partition, *, keep: Any = True) -> Tree:
    """The combination of the gradients, or zero, in the retain gradient's dtypes; one more pass over the gradients."""
    return combine_rows(
        rows.grads,
        combination.rows * measured.scale[None, :],
        blocks,
        orthogonal=(combination.residual * measured.scale[0], measured.residual),
        keep=keep,
        like=rows.signs.index(1),
    )


def describe(
    geometry: Geometry,
    budget: Budget,
    *,
    regime: Int[Array, " blocks"],
    change: Float[Array, "blocks 2"],
    finite: Bool[Array, " blocks"],
    rule: Rule,
) -> Hardness:
    """The `Hardness` of the measured numbers, in terms of the retain and the forget gradient instead of rows."""
    total = whole(geometry)
    kappa_1, kappa_2 = geometry.thresholds(budget)
    total_budget = Budget(jnp.sum(budget.improvement), jnp.sqrt(jnp.sum(budget.radius**2)))
    total_kappa_1, total_kappa_2 = total.thresholds(total_budget)
    change = jnp.where(jnp.all(finite), change, 0.0)
    retain, forget = (0, 1) if rule.guaranteed == "forget" else (1, 0)
    norms, total_norms = (geometry.free, geometry.guaranteed), (total.free, total.guaranteed)
    quantity = jnp.sum(budget.radius * geometry.guaranteed * ratio(geometry.residual, geometry.free))
    return Hardness(
        kappa=-geometry.inner,
        kappa_1=kappa_1,
        kappa_2=kappa_2,
        cosine=-geometry.cosine(),
        angle=geometry.conflict_angle(),
        retain_norm=norms[retain],
        forget_norm=norms[forget],
        improvement=budget.improvement,
        radius=budget.radius,
        regime=regime,
        feasible=regime != Regime.INFEASIBLE,
        retain_change=change[:, retain],
        forget_change=-change[:, forget],
        finite=finite,
        total_kappa=-total.inner,
        total_kappa_1=total_kappa_1,
        total_kappa_2=total_kappa_2,
        total_retain_norm=total_norms[retain],
        total_forget_norm=total_norms[forget],
        total_cosine=-total.cosine(),
        total_angle=total.conflict_angle(),
        total_improvement=total_budget.improvement,
        total_retain_change=jnp.sum(change[:, retain]),
        total_forget_change=-jnp.sum(change[:, forget]),
        unavoidable=jnp.sum(change[:, 0]) > 0,
        stopping_quantity=quantity,
        stopping_criterion=total_budget.improvement > quantity,
    )


def clipping(raw: Float[Array, "blocks m m"], clip_norm: float | None) -> Float[Array, " m"]:
    """The factor that brings each row's norm over all blocks to `clip_norm` at most."""
    norms = jnp.sqrt(jnp.sum(jnp.diagonal(raw, axis1=-2, axis2=-1), axis=0))
    if clip_norm is None:
        return jnp.ones_like(norms)
    # 1e-6 is torch.nn.utils.clip_grad_norm_'s guard against division by zero: part of what the paper's code clips to.
    # A norm that is not finite must not mark the blocks that are.
    return jnp.where(jnp.isfinite(norms), jnp.minimum(1.0, clip_norm / (norms + 1e-6)), 1.0)
