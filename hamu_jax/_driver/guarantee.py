"""A promise that is measured: shrink the step until the forget loss has really risen (docs/mathematics.md, section 8)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._base import validate


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """Take a step only as far as its promise was seen to be kept.

    A step that promises, to first order, a rise of the forget loss is tried at full length, and halved until the forget
    loss of the same batch, measured at the new point, has risen by at least `fraction` of what the step of that length
    promises (with `forget_groups`: that of every request). If no length does, no step is taken, and the history says so
    (`guarantee_kept`).

    The cost: one more forward pass over the forget batch a step, and one for each halving.

    Attributes:
      fraction: of the promise that must be seen, above 0 and at most 1. A loss that bends downwards along the step keeps
        less than all of it at any length.
      halvings: how often a step may be halved.
    """

    fraction: float = 0.5
    halvings: int = 8

    def __post_init__(self) -> None:
        validate.constant("fraction", self.fraction, positive=True)
        if self.fraction > 1:
            raise ValueError(f"fraction: got {self.fraction!r}, expected at most 1")
        validate.integer("halvings", self.halvings)


class _Trial(NamedTuple):
    """A length that was tried."""

    scale: Float[Array, ""]
    kept: Bool[Array, ""]
    halvings: Int[Array, ""]


def shortened(
    guarantee: Guarantee,
    forget_losses: Callable[[Any], Float[Array, " m"]],
    params: Any,
    updates: Any,
    *,
    before: Float[Array, " m"],
    promised: Float[Array, " m"],
) -> tuple[Any, Float[Array, ""], Bool[Array, ""]]:
    """The updates at the greatest length that keeps the promise, that length (0: none does), and whether one does.

    Args:
      guarantee: what must be seen.
      forget_losses: the mean forget loss of the batch, one a request, as a function of the parameters.
      params: the parameters before the step.
      updates: the step, to be added.
      before: `forget_losses(params)`.
      promised: their first-order changes under `updates`.
    """
    # A rise below the rounding of the loss itself can't be seen, and is not asked for.
    noise = 4.0 * float(jnp.finfo(before.dtype).eps) * jnp.abs(before)

    # Where nothing is promised (HAMU-U, or momentum that goes the other way) there is nothing to be seen.
    asked = jnp.where(promised > 0, guarantee.fraction * promised, -jnp.inf)

    def attempt(scale: Array, halvings: Array) -> _Trial:
        rise = forget_losses(optax.apply_updates(params, _scaled(updates, scale))) - before
        is_enough = rise + noise >= asked * scale
        return _Trial(scale, jnp.all(jnp.isfinite(rise) & is_enough), halvings)

    first = attempt(jnp.ones([], before.dtype), jnp.zeros([], jnp.int32))
    last = jax.lax.while_loop(
        lambda trial: ~trial.kept & (trial.halvings < guarantee.halvings),
        lambda trial: attempt(0.5 * trial.scale, trial.halvings + 1),
        first,
    )
    scale = jnp.where(last.kept, last.scale, 0.0)
    # Selected, not multiplied: an update that is not finite times 0 would not be 0.
    return jax.tree.map(lambda u: jnp.where(last.kept, u, 0), _scaled(updates, scale)), scale, last.kept


def _scaled(updates: Any, scale: Array) -> Any:
    """The updates, each in its own dtype, times a number."""
    return jax.tree.map(lambda u: scale.astype(u.dtype) * u, updates)
