"""Combination rules: from the inner products of the objectives' gradients to the update's coefficients.

A rule knows nothing of parameters, layers, devices or learning rates. It is given one block's `Problem` and returns a
`Combination`; `hamu_jax.combine` makes it an optax transformation. Rows are gradients of losses to be minimised: row 0
is the retain gradient `g_r`, row 1 is `-g_f`, so that a conflict is a negative inner product.
"""

from hamu_jax._hamu_rules import Infeasible, hamu_q, hamu_u, projected
from hamu_jax._rule import Combination, Problem, Rule

__all__ = [
    "Combination",
    "Infeasible",
    "Problem",
    "Rule",
    "hamu_q",
    "hamu_u",
    "projected",
]
