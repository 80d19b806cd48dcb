"""What a combination rule is: from one block's inner products to the update's coefficients."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hamu_jax._kernel.hardness import Regime


class Problem(NamedTuple):
    """What a rule sees of one block.

    Attributes:
      gram: `[m, m]`, inner products of the rows.
      residual: norm of the part of row 0 orthogonal to row 1, measured on the gradients (0: parallel). With many
        requests: 0, not used.
      improvement: the required improvement `q` of the guaranteed objective, per unit of learning rate; with many requests
        `[m - 1]`, one per row except the first. A rule that requires nothing ignores it.
      radius: the longest step `r`, per unit of learning rate. A rule that requires nothing ignores it.
      most: the largest improvement of the guaranteed objective that is allowed; only `hamu_q` and `hamu_u` use it. None:
        no limit.
    """

    gram: Float[Array, "m m"]
    residual: Float[Array, ""]
    improvement: Float[Array, "*requests"]
    radius: Float[Array, ""]
    most: Float[Array, ""] | None = None


class Combination(NamedTuple):
    """A rule's answer: the update is `sum_i rows[i] row_i + residual p`, and `optax.sgd` subtracts it.

    Attributes:
      rows: `[m]`, one coefficient per row.
      residual: coefficient of `p`, the part of row 0 orthogonal to row 1.
      regime: a `hamu_jax.Regime`.
      solution: for a rule with many requests: the common fraction `t` that is met, the multipliers `[m - 1]`, and the KKT
        residual.
    """

    rows: Float[Array, " m"]
    residual: Float[Array, ""]
    regime: Int[Array, ""]
    solution: tuple[Float[Array, ""], Float[Array, " requests"], Float[Array, ""]] | None = None


@dataclasses.dataclass(frozen=True)
class Rule:
    """A named way to combine gradients.

    Attributes:
      solve: the function of one block, jit-able and vmap-able.
      guaranteed: the objective that is promised to the user, row 1; the other one is row 0, and `Hardness.unavoidable` says
        whether row 0 gets worse under the step. With `"retain"` the rows are exchanged before `solve` sees them: row
        0 is then `-g_f`. A rule that promises nothing leaves `"forget"`: `unavoidable` then means that this step raises the
        retain loss; another might not.
      many: whether the rule takes many forget objectives, each with its own requirement.
      promises: whether the rule meets a required improvement of the guaranteed objective where that is feasible.
    """

    solve: Callable[[Problem], Combination]
    guaranteed: Literal["forget", "retain"] = "forget"
    many: bool = False
    promises: bool = False


@functools.cache
def make(
    solve: Callable[..., Combination],
    *,
    guaranteed: Literal["forget", "retain"] = "forget",
    many: bool = False,
    promises: bool = False,
    **options: Hashable,
) -> Rule:
    """The rule of a function and its options. Equal options give the same Rule: jit then sees the same static argument."""
    return Rule(functools.partial(solve, **options), guaranteed, many, promises)


def unconstrained(first: Float[Array, ""], second: Float[Array, ""], residual: Float[Array, ""] | None = None) -> Combination:
    """The answer of a rule that requires nothing: `first row_0 + second row_1 + residual p`."""
    regime = jnp.asarray(Regime.UNCONSTRAINED, jnp.int32)
    return Combination(jnp.stack([first, second]), jnp.zeros_like(first) if residual is None else residual, regime)


def choose(condition: Bool[Array, ""], yes: Combination, no: Combination) -> Combination:
    """The first answer where the condition holds, else the second."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), yes, no)
