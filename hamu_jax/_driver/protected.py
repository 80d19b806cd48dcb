"""Unseen examples that must not suffer: one more request beside the forget requests, for minus their loss.

HAMU's projected step takes any number of losses that must rise. A loss that must not rise is one whose negative must not fall:
a request for minus the loss, at the level where it is. Forget and protected examples then form one data set.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._base import validate
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss, check_data, example_weights, per_example


class Marked(NamedTuple):
    """Forget examples and protected examples.

    Attributes:
      examples: a pytree with a leading example axis.
      protected: `[batch]`, which of them are protected.
    """

    examples: Any
    protected: Bool[Any, " batch"]


@dataclasses.dataclass(frozen=True)
class SignedLoss:
    """The loss of forget examples, and minus the loss of protected ones."""

    loss: Loss

    def __call__(self, params: Any, batch: Marked) -> Float[Array, " batch"]:
        values = per_example(self.loss, params, batch.examples, batch.protected.shape[0], "forget")
        return jnp.where(batch.protected, -values, values)

    def weights(self, batch: Marked) -> Float[Array, " batch"]:
        """The weights of the loss."""
        return example_weights(self.loss, batch.examples, batch.protected.shape[0], None)

    def check(self, params: Any, batch: Marked, name: str) -> None:
        """Runs the check of the loss, if it has one."""
        check_data(name, batch.examples, self.loss, params)


@dataclasses.dataclass(frozen=True)
class ProtectingGroups(Groups):
    """Groups of `Marked` examples: the requests, and last the protected examples."""


def protecting(requests: Groups | None) -> ProtectingGroups:
    """The groups of `Marked` examples; without requests the forget examples are the only one."""
    count = 1 if requests is None else requests.count

    def of(batch: Marked) -> Int[Array, " batch"]:
        member = 0 if requests is None else jnp.asarray(requests.of(batch.examples))
        return jnp.where(batch.protected, count, jnp.where(member == count, -1, member))

    return ProtectingGroups(of, count + 1, implicit=requests is not None and requests.implicit)


def marked(forget: Any, protected: Any) -> Marked:
    """Forget and protected examples as one data set.

    Raises:
      ValueError: if their examples differ in structure, shape or dtype.
    """
    sizes = [validate.batch(name, data) for name, data in (("forget", forget), ("unseen", protected))]
    rows = [jax.tree.map(lambda x: (np.shape(x)[1:], x.dtype), data) for data in (forget, protected)]
    if rows[0] != rows[1]:
        raise ValueError(
            "unseen: got examples of another structure, shape or dtype than those of forget, expected the same with "
            "protect_unseen=True"
        )
    examples = jax.tree.map(lambda x, y: np.concatenate([np.asarray(x), np.asarray(y)]), forget, protected)
    return Marked(examples, np.repeat([False, True], sizes))
