"""A lazy stack of per-request gradients: it holds the examples and their requests, and the gradients are never materialised."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImplicitStack:
    """A lazy stack of the gradients `[m, ...]` of `m` requests' mean losses: they are never materialised.

    `paired_value_and_grad(loss, forget_groups=Groups(..., implicit=True))` returns one as `grads.forget`, and
    `transform(..., forget_axis=0)` takes it as `forget_grads`. A pytree, so that it may enter `jax.jit`; its leaves are not
    gradients, and arithmetic on them means nothing.

    Attributes:
      params: where the gradients are taken.
      batch: the examples.
      member: `[batch]`, each example's request; `count` if it is in none.
      shares: `[batch]`, each example's share of its request's mean.
      loss: `loss(params, batch) -> [batch]`; hashable.
      count: `m`.
      microbatch_size: the number of examples differentiated at once. None: all.
    """

    params: Any
    batch: Any
    member: Int[Array, " batch"]
    shares: Float[Array, " batch"]
    loss: Callable[[Any, Any], Float[Array, " batch"]] = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})
    microbatch_size: int | None = dataclasses.field(metadata={"static": True})

    def negative(self) -> "ImplicitStack":
        """The stack of minus the gradients."""
        return dataclasses.replace(self, shares=-self.shares)

    def present(self) -> Bool[Array, " m"]:
        """Which requests have an example of a share other than 0."""
        counted = jnp.zeros(self.count, jnp.int32).at[self.member].add((self.shares != 0).astype(jnp.int32), mode="drop")
        return counted > 0
