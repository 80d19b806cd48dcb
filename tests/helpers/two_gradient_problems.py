"""Random problems of one retain and one forget gradient, the transform on all of them at once, and float64 certificates."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hamu_jax

# The suite compiles otherwise (see conftest), and which products are fused into sums decides how they round. Where jax no
# longer has the option, the suite compiles as users do.
AS_USERS_COMPILE = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}
# For what is run a few times and compared at tolerances far above rounding.
PLAIN_COMPILE = {"xla_backend_optimization_level": 0}
SHAPES = {"a": (2, 3), "b": (4,)}  # of two tensors


class Problems(NamedTuple):
    """`retain`, `forget`: `[problems, n]`; `improvement`, `radius`: `[problems]`, or None for the learning-rate radius."""

    retain: np.ndarray
    forget: np.ndarray
    improvement: np.ndarray
    radius: np.ndarray | None

    def exchanged(self) -> "Problems":
        """HAMU-U's problem as HAMU-Q's."""
        return self._replace(retain=-self.forget, forget=-self.retain)


def norm(x: Any) -> np.ndarray:
    """Euclidean norms of the last axis, in float64."""
    return np.linalg.norm(np.asarray(x, np.float64), axis=-1)


def dot(x: Any, y: Any) -> np.ndarray:
    """Inner products of the last axis, in float64."""
    return np.einsum("...i,...i->...", np.asarray(x, np.float64), np.asarray(y, np.float64))


def tree_of(rng: np.random.Generator, lead: tuple[int, ...], dtype: Any, shapes: Any = None) -> Any:
    """Gradients of leading shape `lead`."""
    return {name: jnp.asarray(rng.normal(size=lead + shape), dtype) for name, shape in (shapes or SHAPES).items()}


def flat(tree: Any, lead: int = 1) -> np.ndarray:
    """The gradients as vectors, in float64, behind `lead` leading axes."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(*x.shape[:lead], -1) for x in leaves], axis=-1)


def angles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Radians: a third each near 0 (down to 1e-4), near pi, and anywhere."""
    small = 10.0 ** rng.uniform(-4, 0, count)
    return np.choose(rng.integers(0, 3, count), [small, np.pi - small, rng.uniform(0, np.pi, count)])


def fractions(rng: np.random.Generator, count: int, infeasible: bool = True) -> np.ndarray:
    """Required improvement as a fraction of the largest feasible one: zero, tiny, between, nearly all, too much."""
    kinds = [
        np.zeros(count),
        np.full(count, 1e-3),
        rng.uniform(0, 1, count),
        np.full(count, 0.999),
        rng.uniform(1.01, 2, count),
    ]
    return np.choose(rng.integers(0, 4 + infeasible, count), kinds)


def sample(
    seed: int,
    count: int,
    size: int,
    *,
    scales: tuple[float, float] = (-8, 4),
    angle: np.ndarray | None = None,
    infeasible: bool = True,
    variant: str = "q",
    dtype: Any = np.float64,
) -> Problems:
    """Problems of mixed regimes, with gradients of norms `10**scales` and radii that suit them."""
    rng = np.random.default_rng(seed)
    along, across = rng.normal(size=(2, count, size))
    along /= norm(along)[:, None]
    across -= dot(across, along)[:, None] * along
    across /= norm(across)[:, None]
    turn = (angles(rng, count) if angle is None else angle)[:, None]
    lengths = 10.0 ** rng.uniform(*scales, (2, count, 1))
    retain = (lengths[0] * (np.cos(turn) * along + np.sin(turn) * across)).astype(dtype)
    forget = (lengths[1] * along).astype(dtype)
    free, guaranteed = (retain, forget) if variant == "q" else (forget, retain)
    radius = (norm(free) * 10.0 ** rng.uniform(-3, 3, count)).astype(dtype)
    share = fractions(rng, count, infeasible)
    return Problems(retain, forget, (share * radius * norm(guaranteed)).astype(dtype), radius)


@functools.cache
def _solver(variant: str, infeasible: str, as_users_compile: bool) -> Any:
    """The transform's direction `d` and what it measured, for many problems at once."""

    def one(retain: Any, forget: Any, improvement: Any, radius: Any) -> Any:
        tx = hamu_jax.transform(improvement, variant=variant, radius=radius, blocks="global", infeasible=infeasible)
        update, state = tx.update(retain, tx.init(retain), forget_grads=forget)
        return -update, state.hardness

    return jax.jit(jax.vmap(one), compiler_options=AS_USERS_COMPILE if as_users_compile else None)


def solve(
    problems: Problems, variant: str = "q", infeasible: str = "scale", *, as_users_compile: bool = False
) -> tuple[np.ndarray, hamu_jax.Hardness]:
    """The directions `[problems, n]` and the `Hardness`, in the dtype of the gradients."""
    with jax.enable_x64(problems.retain.dtype == np.float64):
        return jax.device_get(_solver(variant, infeasible, as_users_compile)(*problems))


def radius_of(problems: Problems) -> np.ndarray:
    """The radius that the problem is to be solved with, as HAMU-Q."""
    return norm(problems.retain) if problems.radius is None else np.asarray(problems.radius, np.float64)


def duality_gap(problems: Problems, directions: np.ndarray) -> np.ndarray:
    """How far `<g_r, d>` may be above its minimum over `<g_f, d> >= q`, `|d| <= r`; a certificate of optimality.

    For every multiplier `m >= 0` the minimum is at least `m q - r |g_r - m g_f|`. The multipliers tried are those at which
    the gradient of the Lagrangian is parallel to `d`, the one that cancels most of `g_r`, and 0.
    """
    retain, forget, required, _ = (None if x is None else np.asarray(x, np.float64) for x in problems)
    d, radius = np.asarray(directions, np.float64), radius_of(problems)
    unit = d / np.maximum(norm(d), 1e-300)[:, None]
    retain_off, forget_off = (x - dot(x, unit)[:, None] * unit for x in (retain, forget))
    bounds = []
    for multiplier in (
        dot(retain_off, forget_off) / np.maximum(dot(forget_off, forget_off), 1e-300),
        dot(retain, forget) / np.maximum(dot(forget, forget), 1e-300),
        np.zeros(len(d)),
    ):
        m = np.maximum(multiplier, 0.0)
        bounds.append(m * required - radius * norm(retain - m[:, None] * forget))
    return dot(retain, d) - np.max(bounds, axis=0)
