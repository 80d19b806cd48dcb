"""The local trade-off: the least that each amount of forgetting costs the retain set, before any step is taken."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from hamu_jax import rules
from hamu_jax._base import validate
from hamu_jax._kernel.blocks import Blocks
from hamu_jax._kernel.budget import Distribution
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.options import Options
from hamu_jax._transform.step import Measurement, Settings, allocate, decrease, measure, prepare, solve_blocks, usable


class TradeOff(NamedTuple):
    """The local trade-off curve, first order, per unit of learning rate.

    Attributes:
      improvement: `[points]`, required improvements from 0 to `largest`.
      retain_change: `[points]`, the least change of the retain loss at each.
      forget_change: `[points]`, the change of the forget loss that comes with it, `improvement` or more.
      largest: the largest required improvement that is feasible in every block.
      free: the largest one that does not raise the retain loss.
    """

    improvement: Float[Array, " points"]
    retain_change: Float[Array, " points"]
    forget_change: Float[Array, " points"]
    largest: Float[Array, ""]
    free: Float[Array, ""]


def trade_off(  # noqa: D417  (`transform` documents the options)
    retain_grads: Tree,
    forget_grads: Tree,
    *,
    radius: float | Float[Array, ""] | None = None,
    blocks: Blocks = "leaf",
    distribution: Distribution = "grad_norm",
    clip_norm: float | None = None,
    points: int = 101,
) -> TradeOff:
    """The least retain change as a function of the required improvement, for steps of HAMU-Q at this point.

    With `blocks="global"` no step within the radius is below the curve: for a required improvement `q` it is
    `(q/|g_f|^2) kappa - |p| sqrt(r^2 - q^2/|g_f|^2)` above `q = -kappa r/|g_r|` and `-r |g_r|` below, where `p` is the part of
    `g_r` orthogonal to `g_f`. With more blocks it is the sum of the blocks' own curves under `distribution`.

    `radius`, `blocks`, `distribution` and `clip_norm` are those of `transform`; also with `clip_norm`, the changes are those of
    the losses themselves.

    Args:
      retain_grads: gradient of the retain loss, a pytree.
      forget_grads: gradient of the forget loss, the same structure.
      points: number of points on the curve.

    Returns:
      The curve. `largest` is 0 where a block with a share cannot forget at all. All is NaN if `distribution` is a function that
      returns a share that is negative or not finite.

    Raises:
      TypeError, ValueError: as `transform` and its `update`; ValueError if `points` is below 2.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> curve = hamu_jax.trade_off(jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]), points=3)
      >>> print(f"{curve.largest:.3f} {curve.free:.3f} {curve.retain_change[0]:.3f}")
      1.414 1.000 -0.707

    Source: docs/mathematics.md, section 2; the bound `free` is the paper's kappa_2 solved for q.
    """
    points = validate.integer("points", points, at_least=2)
    if radius is not None and not isinstance(radius, Tracer):
        validate.constant("radius", radius)
    options = Options(rule=rules.hamu_q(), blocks=blocks, distribution=distribution, clip_norm=clip_norm)
    validate.gradients("retain_grads", retain_grads, some=True)
    validate.gradients("forget_grads", forget_grads)
    validate.same_structure("forget_grads", forget_grads, "retain_grads", retain_grads)
    longest = None if radius is None else jnp.asarray(radius, accumulation_dtype(retain_grads))
    return _curve(retain_grads, forget_grads, longest, options.settings, points)


def _curve_of(retain: Tree, forget: Tree, radius: Array | None, settings: Settings, points: int) -> TradeOff:
    """The curve, from one measurement of the gradients; each point only solves the blocks' scalar problems."""
    rows, blocks, _ = prepare(retain, forget, settings)
    measured = measure(rows, blocks, settings.clip_norm)
    unit = allocate(measured, jnp.ones((), measured.gram.dtype), radius, settings)  # shares are linear in the improvement
    reach = unit.radius * measured.geometry().guaranteed
    sharing = unit.improvement > 0
    largest = jnp.min(jnp.where(sharing, reach / jnp.where(sharing, unit.improvement, 1.0), jnp.inf))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)

    def changes(improvement: Array) -> Array:
        # `largest` uses up the radius of a block. What rounding leaves of it would enter by its square root, so a little
        # more is required there: the solution is then the whole radius along the guaranteed gradient, which is exact.
        beyond = improvement * (1 + 8 * jnp.finfo(improvement.dtype).eps)
        return _changes(measured, jnp.where(improvement < largest, improvement, beyond), radius, settings)

    grid = jnp.linspace(0.0, largest, points, dtype=largest.dtype)
    curve = jax.vmap(changes)(grid)
    fits = usable(jnp.ones(unit.radius.shape, bool), unit)
    result = TradeOff(grid, curve[:, 0], curve[:, 1], largest, _last_free(lambda q: changes(q)[0], largest))
    return jax.tree.map(lambda x: jnp.where(jnp.all(fits), x, jnp.nan), result)


def _changes(measured: Measurement, improvement: Array, radius: Array | None, settings: Settings) -> Float[Array, "2"]:
    """Predicted changes of the retain and of the forget loss when `improvement` is required."""
    combination = solve_blocks(measured, allocate(measured, improvement, radius, settings), settings.rule)
    fall = jnp.sum(decrease(measured, combination), axis=0)
    return jnp.stack([-fall[0], fall[1]])


def _last_free(change: Callable[[Array], Array], largest: Array) -> Array:
    """The largest value up to which a convex change, not positive at 0, stays not positive; by bisection."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        return jnp.where(change(middle) > 0, low, middle), jnp.where(change(middle) > 0, middle, high)

    steps = jnp.finfo(largest.dtype).nmant  # each step adds a bit
    low, _ = jax.lax.fori_loop(0, steps, halve, (jnp.zeros_like(largest), largest))
    return jnp.where(change(largest) > 0, low, largest)


_curve = jax.jit(_curve_of, static_argnames=("settings", "points"))
