"""The hardness of unlearning: the geometry of the retain and the forget gradient, and what follows from it."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._kernel.budget import Budget
from hamu_jax._kernel.inner_products import ratio


class Regime(enum.IntEnum):
    """Which case of the closed form a block is in (paper section 4; docs/mathematics.md, section 2)."""

    DIRECT = 0
    """Easy: plain descent on the objective that is not guaranteed already meets the requirement."""
    RECTIFIED = 1
    """Hard: the step is turned until the requirement is met exactly."""
    COLLINEAR = 2
    """Hard, and the gradients are parallel: nothing is left to turn towards."""
    INFEASIBLE = 3
    """No step within the radius meets the requirement."""
    UNCONSTRAINED = 4
    """The rule has no requirement (gradient difference, for example)."""

    @classmethod
    def _missing_(cls, value: object) -> "Regime | None":
        """Looks an array of one integer up by its value: arrays have no hash, which Python 3.12 and later require."""
        if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer):
            return cls(int(value))
        return None


class Hardness(NamedTuple):
    """What the last step measured. Arrays `[blocks]` unless their name begins with `total`.

    Gradient quantities are those of the gradients that the rule saw (after `clip_norm`); predicted changes are those of
    the losses themselves, to first order, for a step of `optax.sgd(1.0)`: multiply by the learning rate.

    Attributes:
      kappa: `<g_r, g_f>`, the hardness: the larger, the more the sets look alike to the model.
      kappa_1: at or below it the block is easy (`Regime.DIRECT`).
      kappa_2: above it the objective that is not guaranteed must get worse; 0 where the block is infeasible.
      cosine: of the angle between `g_r` and `g_f`; 0 where one of them is zero.
      angle: in degrees, 0 (hardest) to 180 (easiest), from the measured residual: exact for nearly parallel gradients.
      retain_norm: `|g_r|`.
      forget_norm: `|g_f|`.
      improvement: the block's share `q_b` of the required improvement.
      radius: the block's radius `r_b`.
      regime: a `Regime`.
      feasible: whether the requirement can be met within the radius.
      retain_change: predicted change of the retain loss.
      forget_change: predicted change of the forget loss.
      finite: whether the block's gradients, share and radius are finite. If any block's are not, the step is zero everywhere. A
        negative number that a schedule or a `distribution` function returns counts as NaN.
      total_kappa: `kappa` of the whole model, as are the following.
      total_kappa_1: `kappa_1` for the sum of the shares and a step as long as all blocks' radii allow.
      total_kappa_2: `kappa_2` likewise.
      total_retain_norm: `|g_r|` of the whole gradient.
      total_forget_norm: `|g_f|` of the whole gradient.
      total_cosine: of the angle between the whole gradients.
      total_angle: in degrees.
      total_improvement: the sum of the shares.
      total_retain_change: predicted change of the retain loss, summed over blocks.
      total_forget_change: predicted change of the forget loss, summed over blocks.
      unavoidable: the objective that is not guaranteed gets worse, to first order, under this step: for HAMU-Q the
        retain loss rises, for HAMU-U the forget loss falls. Consider stopping. With a rule that requires nothing it says
        only that this step raises the retain loss (never true of `rules.gru`); another step might not.
      stopping_quantity: the paper's `sum_b r_b sqrt(rr_b ff_b - kappa_b^2) / |g_r,b|` (its stopping criterion).
      stopping_criterion: whether `total_improvement` exceeds it. Blind to the sign of `kappa`: true for opposed gradients,
        the easiest case, as well.
    """

    kappa: Float[Array, " blocks"]
    kappa_1: Float[Array, " blocks"]
    kappa_2: Float[Array, " blocks"]
    cosine: Float[Array, " blocks"]
    angle: Float[Array, " blocks"]
    retain_norm: Float[Array, " blocks"]
    forget_norm: Float[Array, " blocks"]
    improvement: Float[Array, " blocks"]
    radius: Float[Array, " blocks"]
    regime: Int[Array, " blocks"]
    feasible: Bool[Array, " blocks"]
    retain_change: Float[Array, " blocks"]
    forget_change: Float[Array, " blocks"]
    finite: Bool[Array, " blocks"]
    total_kappa: Float[Array, ""]
    total_kappa_1: Float[Array, ""]
    total_kappa_2: Float[Array, ""]
    total_retain_norm: Float[Array, ""]
    total_forget_norm: Float[Array, ""]
    total_cosine: Float[Array, ""]
    total_angle: Float[Array, ""]
    total_improvement: Float[Array, ""]
    total_retain_change: Float[Array, ""]
    total_forget_change: Float[Array, ""]
    unavoidable: Bool[Array, ""]
    stopping_quantity: Float[Array, ""]
    stopping_criterion: Bool[Array, ""]


class Geometry(NamedTuple):
    """Two gradients of losses to be minimised, `free` and `guaranteed`, per block or as a whole.

    Attributes:
      free: norm of the gradient of the objective that is optimised.
      guaranteed: norm of the gradient of the objective that is promised to improve.
      inner: their inner product; negative where they conflict.
      residual: norm of the part of the free gradient orthogonal to the guaranteed one.
    """

    free: Float[Array, "..."]
    guaranteed: Float[Array, "..."]
    inner: Float[Array, "..."]
    residual: Float[Array, "..."]

    def cosine(self) -> Float[Array, "..."]:
        """Cosine between the two gradients; 0 where one is zero."""
        return jnp.clip(ratio(ratio(self.inner, self.free), self.guaranteed), -1.0, 1.0)

    def conflict_angle(self) -> Float[Array, "..."]:
        """Degrees between the retain and the forget gradient: the rows' angle, less one of their signs."""
        return jnp.degrees(jnp.arctan2(self.residual, -ratio(self.inner, self.guaranteed)))

    def thresholds(self, budget: Budget) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """`(kappa_1, kappa_2)`, the paper's bounds of the easy and of the unavoidable case (paper section 4)."""
        needed = budget.improvement / jnp.where(budget.radius > 0, budget.radius, 1.0)
        needed = jnp.where((budget.radius > 0) | (budget.improvement <= 0), needed, jnp.inf)
        room = jnp.sqrt(jnp.maximum(self.guaranteed - needed, 0.0)) * jnp.sqrt(jnp.maximum(self.guaranteed + needed, 0.0))
        impossible = needed > self.guaranteed
        moving = self.free > 0
        kappa_1 = jnp.where(moving, -needed * jnp.where(moving, self.free, 1.0), 0.0)
        return kappa_1, jnp.where(impossible, 0.0, self.free * jnp.where(impossible, 0.0, room))


def whole(blocks: Geometry) -> Geometry:
    """The geometry of the whole gradients from that of the blocks, without cancellation.

    In block b the free gradient is `residual_b + c_b guaranteed_b`; against the whole guaranteed gradient, with
    coefficient `c`, it leaves `residual_b + (c_b - c) guaranteed_b`, two orthogonal parts.
    """
    inner = jnp.sum(blocks.inner)
    guaranteed = jnp.sqrt(jnp.sum(blocks.guaranteed**2))
    mean = ratio(ratio(inner, guaranteed), guaranteed)
    coefficients = ratio(ratio(blocks.inner, blocks.guaranteed), blocks.guaranteed)
    residual = jnp.sqrt(jnp.sum(blocks.residual**2 + ((coefficients - mean) * blocks.guaranteed) ** 2))
    return Geometry(jnp.sqrt(jnp.sum(blocks.free**2)), guaranteed, inner, residual)
