"""HAMU-Q and HAMU-U: the step in closed form that guarantees an improvement of one objective."""

from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp

from hamu_jax._base import validate
from hamu_jax._kernel.hardness import Regime
from hamu_jax._kernel.inner_products import ratio
from hamu_jax.rules._rule import Combination, Problem, Rule, make

Infeasible: TypeAlias = Literal["scale", "ascend", "skip"]


def hamu_q(infeasible: Infeasible = "scale") -> Rule:
    """HAMU-Q: lower the retain loss as much as possible while the forget loss rises by at least `q`.

    Solves, per block, `min <g_r, d>` subject to `<g_f, d> >= q` and `|d| <= r`, in closed form.

    Guarantees, where feasible: `<g_f, d> >= q`, `|d| <= r`, and no such `d` has a smaller `<g_r, d>`. In float32 these hold
    to 1e-6 of `r |g_f|`, and of `r` and `r |g_r|` divided by the sine of the angle between the gradients (measured down to
    1e-4 rad).

    Edge cases: a zero forget gradient with `q > 0` is infeasible, with `q = 0` direct; a zero retain gradient or parallel
    gradients give the shortest step that meets `q`; `q = 0` never ascends on the retain loss.

    Args:
      infeasible: what to do when no such `d` exists: `"scale"` takes the most that the ball allows, `r g_f/|g_f|`;
        `"ascend"` meets `q` and leaves the ball, `(q/|g_f|^2) g_f`; `"skip"` takes no step.

    Raises:
      ValueError: for an unknown `infeasible`.

    Source: paper section 4 (closed-form update); docs/mathematics.md, sections 2 and 4.
    """
    _check_infeasible(infeasible)
    return make(_closed_form, promises=True, infeasible=infeasible)


def hamu_u(infeasible: Infeasible = "scale") -> Rule:
    """HAMU-U: raise the forget loss as much as possible while the retain loss falls by at least `u`.

    Solves, per block, `max <g_f, d>` subject to `<g_r, d> <= -u` and `|d| <= r`: HAMU-Q with the rows exchanged. The same
    guarantees and edge cases hold, with the roles of the objectives exchanged.

    Args:
      infeasible: as in `hamu_q`, with `-g_r` in the place of `g_f`.

    Raises:
      ValueError: for an unknown `infeasible`.

    Source: paper section 4 (the reciprocal problem); docs/mathematics.md, section 2.
    """
    _check_infeasible(infeasible)
    return make(_closed_form, guaranteed="retain", promises=True, infeasible=infeasible)


def _closed_form(problem: Problem, *, infeasible: Infeasible) -> Combination:
    """Maximise the decrease of row 0's loss, given that row 1's decreases by `q`, in a ball (docs/mathematics.md, section 2).

    A negative `q` lets row 1's loss rise by up to `-q`. Where its decrease must not exceed `problem.most`, the same step meets
    that bound instead.

    Everything is in norms, never in their squares' products, so that gradients from 1e-15 to 1e15 fit float32.
    """
    radius = problem.radius
    free, guaranteed = jnp.sqrt(problem.gram[0, 0]), jnp.sqrt(problem.gram[1, 1])
    cosine = ratio(ratio(problem.gram[0, 1], free), guaranteed)
    # The length along row 1 that meets the requirement. Compared with lengths only: kappa <= kappa_1 is `direct`.
    unreachable = jnp.where(problem.improvement == 0, 0.0, jnp.copysign(jnp.inf, problem.improvement))
    needed = jnp.where(guaranteed > 0, ratio(problem.improvement, guaranteed), unreachable)
    is_infeasible = needed > radius
    descent = radius * cosine  # the length along row 1 of plain descent on row 0
    exceeds = jnp.zeros_like(is_infeasible)
    if problem.most is not None:
        most = jnp.where(guaranteed > 0, ratio(problem.most, guaranteed), jnp.inf)
        exceeds = descent > most
        needed = jnp.where(exceeds, jnp.maximum(most, needed), needed)
    is_direct = ~is_infeasible & ~exceeds & (needed <= descent)
    is_collinear = ~is_infeasible & ~is_direct & (problem.residual <= 0)
    is_rectified = ~(is_infeasible | is_direct | is_collinear)

    fallback = {"scale": radius, "ascend": jnp.where(jnp.isfinite(needed), needed, 0.0), "skip": jnp.zeros_like(radius)}
    along = jnp.where(is_infeasible, fallback[infeasible], jnp.where(is_direct, 0.0, needed))
    inside = jnp.where(is_rectified, needed, 0.0)  # finite in both branches of the root
    room = jnp.sqrt(jnp.maximum(radius - inside, 0.0)) * jnp.sqrt(jnp.maximum(radius + inside, 0.0))
    across = jnp.where(is_rectified, room, 0.0)
    regime = jnp.where(
        is_infeasible,
        Regime.INFEASIBLE,
        jnp.where(is_direct, Regime.DIRECT, jnp.where(is_collinear, Regime.COLLINEAR, Regime.RECTIFIED)),
    ).astype(jnp.int32)
    rows = jnp.stack([jnp.where(is_direct, ratio(radius, free), 0.0), ratio(along, guaranteed)])
    return Combination(rows, ratio(across, problem.residual), regime)


def _check_infeasible(infeasible: str) -> None:
    """Checks the name of what to do in the infeasible case."""
    validate.choice("infeasible", infeasible, get_args(Infeasible))
