"""Combination rules: from the inner products of the objectives' gradients to the update's coefficients.

A rule knows nothing of parameters, layers, devices or learning rates. It takes one block's `Problem` and returns a
`Combination`; `hamu_jax.combine` makes an optax transformation of it. Rows are gradients of losses to be minimised: row 0
is the retain gradient `g_r`, row 1 is `-g_f`, so that a conflict is a negative inner product.

| rule | the update `u` (subtracted) | promises, to first order |
|---|---|---|
| `hamu_q` | lowers the retain loss most | the forget loss rises by `q` |
| `hamu_u` | raises the forget loss most | the retain loss falls by `u` |
| `projected` | lowers the retain loss most | each of many forget losses rises by its `q_i` |
| `descent` | `g_r`: fine-tuning (FT) | |
| `ascent` | `-g_f`: gradient ascent (GA) | |
| `gdiff` | `(1 - w) g_r - w g_f`: gradient difference, by default with `w = 1/2` | |
| `pcgrad` | the sum, each less its conflict with the other | neither gets worse |
| `gru` | nearest to `-g_f` | the retain loss does not rise |
| `mgda` | shortest in the convex hull of both | neither gets worse |
| `cagrad` | near the mean, best for the worse off | the worse off fares no worse than under the mean |
| `nash` | the bargain between both | both get better, by as much of `|g|` each |

The last eight require nothing: `improvement`, `radius` and `distribution` of `hamu_jax.combine` do not change their step. Their
papers take inner products of whole gradients: `hamu_jax.combine(rules.gru(), blocks="global")`. With the default,
`blocks="leaf"`, each tensor is a problem of its own: the promises then hold for each tensor, and for their sum.
"""

from hamu_jax.rules._bargaining import cagrad, mgda, nash
from hamu_jax.rules._baselines import ascent, descent, gdiff, gru, pcgrad
from hamu_jax.rules._hamu_closed_form import Infeasible, hamu_q, hamu_u
from hamu_jax.rules._projected.rule import projected
from hamu_jax.rules._rule import Combination, Problem, Rule

__all__ = [
    "Combination",
    "Infeasible",
    "Problem",
    "Rule",
    "ascent",
    "cagrad",
    "descent",
    "gdiff",
    "gru",
    "hamu_q",
    "hamu_u",
    "mgda",
    "nash",
    "pcgrad",
    "projected",
]
