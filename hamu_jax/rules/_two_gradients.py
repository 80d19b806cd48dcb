"""Two gradients in the plane that they span: the geometry of every rule for two objectives.

The first axis lies along row 1, the second along `p`, the part of row 0 orthogonal to row 1. In these coordinates
avoidable cancellation does not occur: the length of `p` is measured, not derived, so that opposed gradients, whose sums and
projections are tiny, keep their digits. Everything is in lengths and their ratios: gradients from 1e-15 to 1e15 fit float32.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from hamu_jax._kernel.inner_products import ratio
from hamu_jax.rules._rule import Combination, Problem, unconstrained


class Plane(NamedTuple):
    """Row 0 is `(along, across)`, row 1 is `(second, 0)`.

    Attributes:
      along: `<row_0, row_1> / |row_1|`; negative where the objectives conflict.
      across: `|p|`.
      second: `|row_1|`.
    """

    along: Float[Array, ""]
    across: Float[Array, ""]
    second: Float[Array, ""]

    def first(self) -> Float[Array, ""]:
        """`|row_0|`."""
        return jnp.hypot(self.along, self.across)

    def edge(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The unit vector from row 1 to row 0; zero if they are equal."""
        gap = self.along - self.second
        length = jnp.hypot(gap, self.across)
        return ratio(gap, length), ratio(self.across, length)

    def combination(self, x: Float[Array, ""], y: Float[Array, ""]) -> Combination:
        """The update at a point. An axis that is undefined (a zero row, parallel rows) gets the coefficient 0."""
        return unconstrained(jnp.zeros_like(x), ratio(x, self.second), ratio(y, self.across))


def plane(problem: Problem) -> Plane:
    """The coordinates of a block's two rows. A row without a square (below 1e-19 in float32) counts as zero."""
    second = jnp.sqrt(problem.gram[1, 1])
    along = jnp.where(problem.gram[0, 0] > 0, ratio(problem.gram[0, 1], second), 0.0)
    return Plane(along, problem.residual, second)
