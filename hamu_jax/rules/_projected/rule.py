"""The rule with a guarantee for every request."""

import jax.numpy as jnp

from hamu_jax._kernel.hardness import Regime
from hamu_jax.rules._projected.solve import solve
from hamu_jax.rules._rule import Combination, Problem, Rule, make


def projected() -> Rule:
    """A guarantee for every request: lower the retain loss most while each of `m` forget losses rises by at least `q_i`.

    Solves, per block, `min <g_r, d>` subject to `<g_f,i, d> >= q_i` for `i = 1..m` and `|d| <= r`, from inner products alone.
    With one request it is `hamu_q`.

    Guarantees: the requirements and the ball hold up to the KKT residual that is reported; see `rules._projected.solve`
    for edge cases. If no such `d` exists the step meets the largest common fraction `t` of all requirements that the ball
    allows, and `t` is reported.

    Source: docs/mathematics.md, section 5.
    """
    return make(_projected, many=True, promises=True)


def _projected(problem: Problem) -> Combination:
    """The step for one block, and the regime of its requirements."""
    answer = solve(problem.gram, problem.improvement, problem.radius)
    unmet, binding = answer.fraction < 1, jnp.any(answer.multipliers > 0)
    regime = jnp.where(unmet, Regime.INFEASIBLE, jnp.where(binding, Regime.RECTIFIED, Regime.DIRECT)).astype(jnp.int32)
    solution = (answer.fraction, answer.multipliers, answer.kkt)
    return Combination(answer.coefficients, jnp.zeros_like(problem.radius), regime, solution)
