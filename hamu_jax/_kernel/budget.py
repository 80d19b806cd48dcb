"""The budget: each block's share of the required improvement, and its radius."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hamu_jax._base import validate

Shares: TypeAlias = Callable[
    [Float[Array, " blocks"], Float[Array, " blocks"], Float[Array, " blocks"]], Float[Array, " blocks"]
]
Named: TypeAlias = Literal["grad_norm", "uniform", "softmax", "relative", "cosine"]
Distribution: TypeAlias = Named | Shares

NAMES: tuple[str, ...] = get_args(Named)


class Budget(NamedTuple):
    """What every block must achieve and how far it may go, per unit of learning rate.

    Attributes:
      improvement: `[blocks]`, the required improvement `q_b`.
      radius: `[blocks]`, the longest step `r_b`.
      most: `[blocks]`, the largest improvement that is allowed. None: any.
    """

    improvement: Float[Array, " blocks"]
    radius: Float[Array, " blocks"]
    most: Float[Array, " blocks"] | None = None


def shares(
    distribution: Distribution,
    retain_square: Float[Array, " blocks"],
    forget_square: Float[Array, " blocks"],
    kappa: Float[Array, " blocks"],
) -> Float[Array, " blocks"]:
    """The factor of every block by which the total required improvement is multiplied (docs/mathematics.md, section 3).

    For `"cosine"` pass the square of the radius as that of the free gradient. A negative share that a function returns becomes
    NaN.

    Raises:
      ValueError: for an unknown name, or a function whose result does not have one number per block.
    """
    if callable(distribution):
        factors = validate.real_array("distribution (its result)", distribution(retain_square, forget_square, kappa))
        if factors.shape != kappa.shape:
            raise ValueError(
                f"distribution: got an array of shape {factors.shape}, expected one share per block, {kappa.shape}"
            )
        factors = jnp.asarray(factors, kappa.dtype)
        return jnp.where(factors >= 0, factors, jnp.nan)
    if distribution == "uniform":
        return jnp.full_like(kappa, 1.0 / kappa.shape[0])
    if distribution == "softmax":
        return jax.nn.softmax(-kappa)
    norms = jnp.sqrt(retain_square) * jnp.sqrt(forget_square)
    if distribution in ("relative", "cosine"):
        return norms
    if distribution == "grad_norm":
        total = jnp.sum(norms)
        # If all products are zero, all blocks get the same share: the constraint must not vanish.
        return jnp.where(total > 0, norms / jnp.where(total > 0, total, 1.0), 1.0 / kappa.shape[0])
    raise ValueError(f"distribution: got {distribution!r}, expected one of {', '.join(NAMES)}, or a function")
