"""The baselines of unlearning as combination rules: one gradient alone, their mean, and their projections."""

import jax.numpy as jnp

from hamu_jax._base import validate
from hamu_jax._kernel.inner_products import ratio
from hamu_jax.rules._rule import Combination, Problem, Rule, choose, make, unconstrained
from hamu_jax.rules._two_gradients import plane


def descent() -> Rule:
    """FT, fine-tuning: descent on the retain loss, `u = g_r`; the forget gradient is measured, not used.

    Length: `|g_r|`. Edge cases: none; a zero retain gradient gives no step.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.descent())
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0])
      [2. 0.]

    Source: HAMU (arXiv 2606.02119), experiments, baseline FT.
    """
    return make(_weighted, first=1.0, second=0.0)


def ascent() -> Rule:
    """GA, gradient ascent: ascent on the forget loss, `u = -g_f`; the retain gradient is measured, not used.

    Length: `|g_f|`. Neither the retain loss nor the final rise of the forget loss is bounded. Edge cases: none; a zero
    forget gradient gives no step.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.ascent())
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0])
      [-1. -1.]

    Source: HAMU (arXiv 2606.02119), experiments, baseline GA.
    """
    return make(_weighted, first=0.0, second=1.0)


def gdiff(weight: float = 0.5) -> Rule:
    """GDiff, gradient difference: a weighted mean of both objectives' gradients, `u = (1 - weight) g_r - weight g_f`.

    With the losses of KL or SCRUB instead of the cross-entropies it is those methods.

    Length: at most the longer of both; with the default `|g_r - g_f|/2`, half of HAMU's scale: the mean, as in the HAMU
    authors' code. Others take a weighted sum, which is this rule with another learning rate. Edge cases: a zero gradient leaves
    the other, weighted; with the default `g_r = g_f` gives no step; weights 0 and 1 are `descent` and `ascent`.

    Args:
      weight: the share of the forget gradient, from 0 to 1. SimNPO's published `0.1375 : 1` is 0.121.

    Raises:
      ValueError: for a weight that is not from 0 to 1.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.gdiff())
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0])
      [ 0.5 -0.5]

    Source: HAMU (arXiv 2606.02119), experiments, baseline GDiff; the weight: TOFU (arXiv 2401.06121) and SimNPO (arXiv
    2410.07163), which take `weight : 1` of the two losses.
    """
    if not 0.0 <= validate.constant("weight", weight) <= 1.0:
        raise ValueError(f"weight: got {weight!r}, expected a number from 0 to 1")
    return make(_weighted, first=1.0 - weight, second=float(weight))


def pcgrad() -> Rule:
    """PCGrad, projecting conflicting gradients: the sum of both rows, each less its projection on the other.

    With `a = g_r`, `b = -g_f`: `u = a + b` where `<a, b> >= 0`, else
    `u = (a - <a,b>/|b|^2 b) + (b - <a,b>/|a|^2 a)`. With two objectives the order in which the paper projects is immaterial.

    Guarantees: `<a, u> >= 0` and `<b, u> >= 0`: to first order neither loss gets worse. In float32 to 1e-6 of `|a| |u|` and
    `|b| |u|`, also for opposed gradients.

    Length: that of the sum, as in the paper: without conflict twice `gdiff`, and at most `|a| + |b|`. The HAMU authors' code
    takes half of it, and projects where the paper does not (its test has the other sign): this rule follows the paper.

    Edge cases: with a zero row the step is the other row; with parallel rows it is their sum; with opposite rows
    (`g_r = t g_f`, `t > 0`) there is no step, since both projections are zero; with equal rows it is twice one of them.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.pcgrad(), blocks="global")
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0].round(3))
      [ 1. -2.]

    Source: Yu et al. 2020 (arXiv 2001.06782), algorithm 1.
    """
    return make(_pcgrad)


def gru(max_norm: float | None = None) -> Rule:
    """GRU, gradient rectified unlearning: as close to ascent on the forget loss as the retain loss allows.

    Solves `min |u + g_f|^2` subject to `<g_r, u> >= 0`, in closed form: `u = -g_f` where `<g_r, g_f> <= 0`, else
    `u = -(g_f - <g_r,g_f>/|g_r|^2 g_r)`. Afterwards, with `max_norm`, `u` is shortened to that length.

    Guarantees: to first order the retain loss does not rise, and the forget loss does not fall: `unavoidable` is always false,
    since the rule's `guaranteed` is `"retain"`. In float32 `<g_r, u> >= -1e-6 |g_r| |u|`, also for nearly parallel gradients.

    Length: at most `|g_f|`, times the sine of the angle between the gradients where they conflict; per unit of learning
    rate, and so is `max_norm`. Both count per problem, that is per block: with `blocks="global"` the whole model, as in the
    paper. The paper smooths the retain gradient over steps, which is left to the caller. The HAMU authors' code has the
    other sign in its test for a conflict: this rule follows the paper.

    Edge cases: a zero forget gradient gives no step, and so do parallel gradients (`g_f = t g_r`, `t > 0`); with a zero retain
    gradient, or gradients that do not conflict, the step is `-g_f`.

    Args:
      max_norm: the longest step of a block, per unit of learning rate (the HAMU authors' `tau`); None: no limit.

    Raises:
      ValueError: for a `max_norm` that is not a positive number.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.gru(), blocks="global")
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0].round(3))
      [ 0. -1.]

    Source: Wang et al. 2025 (arXiv 2503.09117), section 3.
    """
    limit = None if max_norm is None else validate.constant("max_norm", max_norm, positive=True)
    return make(_gru, guaranteed="retain", max_norm=limit)


def _weighted(problem: Problem, *, first: float, second: float) -> Combination:
    """The combination with fixed weights."""
    like = problem.residual
    return unconstrained(jnp.full_like(like, first), jnp.full_like(like, second))


def _pcgrad(problem: Problem) -> Combination:
    """The sum of both projections; that of row 1 is `sin^2 row_1 - <row_0,row_1>/|row_0|^2 p`, where nothing cancels."""
    at = plane(problem)
    first, ones = at.first(), jnp.ones_like(at.across)
    share = ratio(ratio(at.along, first) * at.second, first)
    projected = at.combination(ratio(at.across, first) ** 2 * at.second, at.across * (1.0 - share))
    return choose(at.along < 0, projected, unconstrained(ones, ones))


def _gru(problem: Problem, *, max_norm: float | None) -> Combination:
    """Row 0 is `-g_f`, row 1 is `g_r`: the projection is `p`."""
    at = plane(problem)
    conflict = at.along < 0
    length = jnp.where(conflict, at.across, jnp.sqrt(problem.gram[0, 0]))
    scale = jnp.ones_like(length)
    if max_norm is not None:
        scale = jnp.minimum(scale, ratio(jnp.full_like(length, max_norm), length))
    return unconstrained(
        jnp.where(conflict, 0.0, scale), jnp.zeros_like(scale), jnp.where(conflict & (at.across > 0), scale, 0.0)
    )
