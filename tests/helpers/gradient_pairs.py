"""Pairs of gradients for the rules that require nothing, and all of these rules on all of the pairs at once."""

import functools
from typing import Any, NamedTuple

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from two_gradient_problems import AS_USERS_COMPILE, dot, norm, sample

from hamu_jax import rules
from hamu_jax._kernel.blocks import partition
from hamu_jax._kernel.budget import Budget
from hamu_jax._transform import step

REQUIRE_NOTHING = {
    "descent": rules.descent(),
    "ascent": rules.ascent(),
    "gdiff": rules.gdiff(),
    "pcgrad": rules.pcgrad(),
    "gru": rules.gru(),
    "gru-capped": rules.gru(max_norm=0.5),
    "mgda": rules.mgda(),
    "cagrad": rules.cagrad(),
    "nash": rules.nash(),
}
RULES = REQUIRE_NOTHING | {"cagrad-0": rules.cagrad(0), "cagrad-2": rules.cagrad(2), "cagrad-1e6": rules.cagrad(1e6)}
COUNT, SIZE = 200, 8  # one shape, so that there is one compilation a dtype


class Pairs(NamedTuple):
    """Gradients `[pairs, n]` of the retain and of the forget loss."""

    retain: np.ndarray
    forget: np.ndarray

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Row 0 and row 1 in float64: gradients of losses to be minimised."""
        return self.retain.astype(np.float64), -self.forget.astype(np.float64)

    def exchanged(self) -> "Pairs":
        """The same two rows in the other order."""
        return Pairs(-self.forget, -self.retain)

    def cosine(self) -> np.ndarray:
        """Between the rows."""
        first, second = self.rows()
        return dot(first / norm(first)[:, None], second / norm(second)[:, None])

    def sine(self) -> np.ndarray:
        """Between the rows."""
        first, second = self.rows()
        unit = second / norm(second)[:, None]
        return norm(first - dot(first, unit)[:, None] * unit) / norm(first)


class Answer(NamedTuple):
    """`update` `[pairs, n]`, and what is predicted of it, `[pairs]`."""

    update: np.ndarray
    retain_change: np.ndarray
    forget_change: np.ndarray


def mixed(seed: int, dtype: Any = np.float64, *, like: tuple[float, float] = (-8, 4)) -> Pairs:
    """Angles from 1e-4 to 180 degrees less that; half of the pairs equally long, half of norms `10**like`."""
    size = (2, 3, SIZE)[seed % 3]
    parts = [sample(seed, COUNT // 2, size, scales=scales, dtype=dtype) for scales in (like, (0, 0))]
    return Pairs(np.concatenate([x.retain for x in parts]), np.concatenate([x.forget for x in parts]))


def quadratic_program(
    square: np.ndarray, linear: np.ndarray, constraints: np.ndarray, limits: np.ndarray, equalities: int = 0
) -> np.ndarray:
    """`min x.square x / 2 + linear.x`, `constraints x <= limits` (the first few equal), by an interior-point solver."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(equalities), clarabel.NonnegativeConeT(len(limits) - equalities)]
    matrices = sparse.csc_matrix(np.triu(square)), sparse.csc_matrix(constraints)
    return np.array(clarabel.DefaultSolver(matrices[0], linear, matrices[1], limits, cones, settings).solve().x)


def solve_one(retain: Any, forget: Any) -> dict[str, Answer]:
    """Every rule on one pair: what `hamu_jax.combine` does, with the gradients measured once for all rules (compilation)."""
    answers, blocks = {}, partition(retain, "global")
    for guaranteed in ("forget", "retain"):
        group = {name: rule for name, rule in RULES.items() if rule.guaranteed == guaranteed}
        rows = step.order(retain, forget, next(iter(group.values())))
        measured = step.measure(rows, blocks, None)
        nothing = Budget(*jnp.zeros([2, 1], retain.dtype))
        solved = [step.solve_blocks(measured, nothing, rule) for rule in group.values()]

        def finish(combination: Any, rows: Any = rows, measured: Any = measured) -> Any:
            return step.update(rows, measured, combination, blocks), -step.decrease(measured, combination)[0]

        updates, changes = jax.vmap(finish)(jax.tree.map(lambda *x: jnp.stack(x), *solved))
        retain_row = 0 if guaranteed == "forget" else 1
        for i, name in enumerate(group):
            answers[name] = Answer(updates[i], changes[i, retain_row], -changes[i, 1 - retain_row])
    return answers


@functools.cache
def _solver(as_users_compile: bool) -> Any:
    """Every rule on many pairs."""
    return jax.jit(jax.vmap(solve_one), compiler_options=AS_USERS_COMPILE if as_users_compile else None)


def solve(pairs: Pairs) -> dict[str, Answer]:
    """Every rule on up to `COUNT` pairs of up to `SIZE` numbers; float32 as users compile it."""
    count, size = pairs.retain.shape
    padded = [np.pad(x, ((0, COUNT - count), (0, SIZE - size))) for x in pairs]
    double = pairs.retain.dtype == np.float64
    with jax.enable_x64(double):
        answers = jax.device_get(_solver(not double)(*padded))
    return {name: Answer(answer.update[:count, :size], *(x[:count] for x in answer[1:])) for name, answer in answers.items()}
