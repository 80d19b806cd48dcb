"""Rules of multi-objective optimisation: both objectives get a share of the step, and neither has a requirement.

For two objectives all three have a closed form in the plane of both rows. With `e` the unit vector from row 1 to row 0 and
`n` the one orthogonal to it, on the side of both rows, the line through both rows is `height n + t e`.
"""

import math

import jax.numpy as jnp

from hamu_jax._base import validate
from hamu_jax._kernel.inner_products import ratio
from hamu_jax.rules._rule import Combination, Problem, Rule, choose, make, unconstrained
from hamu_jax.rules._two_gradients import plane


def mgda() -> Rule:
    """MGDA, multiple-gradient descent: the shortest vector in the convex hull of both rows.

    Solves `min |t a + (1 - t) b|` over `0 <= t <= 1`, with `a = g_r`, `b = -g_f`, in closed form.

    Guarantees: `<a, u> >= |u|^2` and `<b, u> >= |u|^2`: to first order both losses improve, equally where the minimum is not
    at an end; if `u = 0` no step improves both (the point is Pareto stationary). In float32 to 1e-6 of `|a| |u|` and
    `|b| |u|`, for opposed gradients too.

    Length: that of the shortest vector, at most that of the shorter row. Where one gradient is far shorter, it is the step.

    Edge cases: a zero row gives no step, so a forget gradient that vanishes ends the descent; parallel rows give the shorter
    one, equal rows that row; opposite rows no step.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.mgda(), blocks="global")
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0].round(3))
      [ 1. -1.]

    Source: Desideri 2012; Sener and Koltun 2018 (arXiv 1810.04650), algorithm 1.
    """
    return make(_mgda)


def cagrad(c: float = 0.5) -> Rule:
    """CAGrad, conflict-averse gradient descent: near the mean gradient, the best for the objective that is worse off.

    Solves `max_u min(<a, u>, <b, u>)` subject to `|u - g_0| <= c |g_0|`, with `a = g_r`, `b = -g_f`, `g_0 = (a + b)/2`. The
    paper minimises the dual numerically; for two objectives there is a closed form, and this is it: `u = g_0 + c |g_0| a/|a|`
    where row 0 is worse off even then, likewise for row 1, and else the point of the ball at which both improve alike,
    `(height + sqrt(c^2 |g_0|^2 - <e, g_0>^2)) n`.

    Guarantees: `|u - g_0| <= c |g_0|`, and no such `u` has a larger `min(<a, u>, <b, u>)`. In float32 to 1e-6 of `|a| + |b|`
    (with `c > 1` divided by the sine of the angle between the rows), and to 1e-6 of its square.

    Length: between `(1 - c) |g_0|` and `(1 + c) |g_0|`, without the paper's code's optional rescaling; `gdiff` is `g_0`.

    Edge cases: `c = 0` is `gdiff`; a zero row gives `g_0`, half of the other; parallel rows `(1 + c) g_0`; opposite rows
    `(1 - c) g_0`, and no step from `c = 1` on or where they are equally long (`g_0 = 0`).

    Args:
      c: the radius of the ball, in units of `|g_0|`, at least 0. Below 1, as the paper has it, the step descends on the mean
        loss; as `c` grows, its direction tends to that of `mgda`.

    Raises:
      ValueError: for a `c` that is not a number of at least 0.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.cagrad(), blocks="global")
      >>> print(*(f"{x:.2f}" for x in tx.update(retain, tx.init(retain), forget_grads=forget)[0]))
      1.50 -1.50

    Source: Liu et al. 2021 (arXiv 2110.14048), section 3, algorithm 1.
    """
    return make(_cagrad, c=validate.constant("c", c))


def nash() -> Rule:
    """The Nash bargain of MUNBa: the step that maximises the product of what both objectives gain.

    Solves `max log <a, u> + log <b, u>` over a ball, with `a = g_r`, `b = -g_f`, scaled so that `u = alpha_0 a + alpha_1 b`
    with `K alpha = 1/alpha`, `K` their Gram matrix. For two objectives `alpha = (1/|a|, 1/|b|)/sqrt(1 + cosine)`: the
    direction halves the angle between the rows, whatever their lengths.

    Guarantees: `<a, u> = |a| sqrt(1 + cosine)` and the same for `b`: to first order both losses improve, by the same part of
    their gradients' lengths. In float32 to 1e-6 of `|a|` and `|b|`.

    Length: always `sqrt(2)`, the root of `sum_i alpha_i (K alpha)_i`: the coefficients as the equation gives them, without
    further normalisation (in float32 to 1e-6 divided by the sine of the angle between the rows). It does not shrink with the
    gradients: the learning rate alone decides how far a block moves, and must decay for the run to converge. It does not
    shrink either as the rows become opposite, where both objectives gain almost nothing and the direction depends on the small
    difference between `-a` and `b`.

    Edge cases: opposite rows give no step, since no step improves both; parallel or equal rows give `sqrt(2)` times their unit
    vector; with one zero row the step is the unit vector of the other one; with two there is no step.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> retain, forget = jnp.array([2.0, 0.0]), jnp.array([0.0, 5.0])
      >>> tx = hamu_jax.combine(hamu_jax.rules.nash(), blocks="global")
      >>> print(tx.update(retain, tx.init(retain), forget_grads=forget)[0].round(3))
      [ 1. -1.]

    Source: MUNBa, Wu and Harandi (ICCV 2025, arXiv 2411.15537), its closed form for two players; Nash-MTL, Navon et al.
    2022 (arXiv 2202.01017), for `K alpha = 1/alpha`.
    """
    return make(_nash)


def _mgda(problem: Problem) -> Combination:
    """The foot of the perpendicular on the line through both rows, or the nearer end."""
    at = plane(problem)
    x, y = at.edge()
    height, ones, zeros = at.second * y, jnp.ones_like(x), jnp.zeros_like(x)
    ends_at_first = at.along * x + at.across * y <= 0
    inside = at.combination(height * y, -height * x)
    return choose(x >= 0, unconstrained(zeros, ones), choose(ends_at_first, unconstrained(ones, zeros), inside))


def _cagrad(problem: Problem, *, c: float) -> Combination:
    """The signs of the dual's derivative at its two ends decide which of the three cases holds."""
    at = plane(problem)
    first, second, (x, y) = at.first(), at.second, at.edge()
    both = (first > 0) & (second > 0)
    radius = jnp.where(both, 0.5 * c * jnp.hypot(at.along + second, at.across), 0.0)
    offset = 0.5 * ((at.along + second) * x + at.across * y)  # of the mean from the perpendicular
    is_first = offset + radius * (ratio(at.along, first) * x + ratio(at.across, first) * y) <= 0
    is_second = offset + radius * x >= 0
    half, size = jnp.full_like(radius, 0.5), jnp.abs(offset)
    length = second * y + jnp.sqrt(jnp.maximum(radius - size, 0.0)) * jnp.sqrt(radius + size)
    equal = at.combination(length * y, -length * x)
    worse_second = choose(is_second, unconstrained(half, 0.5 + ratio(radius, second)), equal)
    return choose(is_first, unconstrained(0.5 + ratio(radius, first), half), worse_second)


def _nash(problem: Problem) -> Combination:
    """The bisector of both rows, in the form in which nothing cancels."""
    at = plane(problem)
    first, second, is_acute = at.first(), at.second, at.along >= 0
    x = jnp.where(is_acute, first + at.along, at.across)
    y = jnp.where(is_acute, at.across, first - at.along)
    scale = ratio(jnp.full_like(x, math.sqrt(2.0)), jnp.hypot(x, y))
    ones = jnp.ones_like(x)
    alone = unconstrained(ratio(ones, first), ratio(ones, second))
    return choose((first > 0) & (second > 0), at.combination(scale * x, scale * y), alone)
