"""The lines of the benchmark: each measures something and says what it should be. A new one is an entry of `LINES`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hamu_jax
from experiments.benchmarks import memory, problems
from experiments.benchmarks.timing import interleaved, ratios, spread
from hamu_jax import rules

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      repeats: of every timing.
      examples: of a profile, for each model.
      pairs: examples whose Gram matrix is formed.
      requests: numbers of requests that are solved.
      profile: examples of the profile whose memory is measured.
      microbatch: examples handled at once in it.
    """

    repeats: int = 21
    examples: tuple[tuple[str, int], ...] = (("MLP", 1024), ("CNN", 1024), ("transformer", 256))
    pairs: int = 64
    requests: tuple[int, ...] = (1, 16, 64, 256, 1024)
    profile: int = 4096
    microbatch: int = 64


SMOKE = Scale(2, (("MLP", 16), ("CNN", 16), ("transformer", 4)), 4, (1, 16), 128, 64)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
      title: what is measured, in words.
      measure: gives rows; those that have a `ratio` are compared with the target.
      target: what the ratio should be at most, or None.
    """

    title: str
    measure: Callable[[Scale], list[Row]]
    target: float | None = None


def profile_against_gradient(scale: Scale) -> list[Row]:
    """`<g_i, v>` for all of N examples, against the gradient of their mean loss."""
    rows: list[Row] = []
    for name, size in scale.examples:
        task = problems.TASKS[name](size)
        profile = jax.jit(lambda p, b, v, loss=task.loss: hamu_jax.directional(loss, p, b, v))
        gradient = jax.jit(lambda p, b, loss=task.loss: jax.grad(lambda q: jnp.mean(loss(q, b)))(p))
        run = {
            "profile": lambda f=profile, t=task: f(t.params, t.batch, t.params),
            "gradient": lambda f=gradient, t=task: f(t.params, t.batch),
        }
        rows.append({"case": f"{name}, {size} examples", **_compared(interleaved(run, scale.repeats))})
    return rows


def gram_against_gradients(scale: Scale) -> list[Row]:
    """All inner products of some examples' gradients, against these gradients one after the other."""
    rows: list[Row] = []
    for name in problems.TASKS:
        task = problems.TASKS[name](scale.pairs)
        alone = [jax.tree.map(lambda x, i=i: x[i : i + 1], task.batch) for i in range(scale.pairs)]
        gram = jax.jit(lambda p, b, loss=task.loss: hamu_jax.gram(loss, p, b))
        single = jax.jit(lambda p, b, loss=task.loss: jax.grad(lambda q: loss(q, b)[0])(p))
        run = {
            "gram": lambda f=gram, t=task: f(t.params, t.batch),
            "gradients": lambda f=single, t=task, alone=alone: [f(t.params, example) for example in alone],
        }
        rows.append({"case": f"{name}, {scale.pairs} examples", **_compared(interleaved(run, scale.repeats))})
    return rows


def projected(scale: Scale) -> list[Row]:
    """A promise to each of m requests, from inner products, in float32."""
    solve = jax.jit(rules.projected().solve)
    rows: list[Row] = []
    for m in scale.requests:
        for kind, cosine in (("feasible", 0.1), ("infeasible", 1.5)):
            problem = _requests(m, cosine)
            seconds = interleaved({"solve": lambda p=problem: solve(p)}, scale.repeats)["solve"]
            solution = solve(problem).solution
            assert solution is not None, "a rule for many requests gives one"
            found = {"fraction": float(solution[0]), "kkt": float(solution[2])}
            rows.append({"case": f"m = {m}, {kind}", **spread(seconds), **found})
    return rows


def _requests(m: int, cosine: float) -> rules.Problem:
    """Requests that have something in common, each to get a cosine with the step."""
    rng = np.random.default_rng(m)
    rows = rng.standard_normal((m + 1, 4 * m + 8))
    rows[1:] += 0.3 * rng.standard_normal(rows.shape[1]) + 0.02 * rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gram, one = jnp.asarray(rows @ rows.T, jnp.float32), jnp.ones((), jnp.float32)
    return rules.Problem(gram, 0.0 * one, jnp.full(m, cosine, jnp.float32), one)


def peak_memory(scale: Scale) -> list[Row]:
    """The peak of a process, against that of one which forms a microbatch of gradients and holds the same data."""
    found = {case: memory.in_subprocess(case, scale.profile, scale.microbatch) for case in memory.CASES}
    rows: list[Row] = []
    for case, values in found.items():
        size = scale.microbatch if case == "gradients" else scale.profile
        above = values["peak"] - values["before"]
        row = {"case": f"{case}, {size} examples", "peak_mb": values["peak"] / 1e6, "above_start_mb": above / 1e6}
        rows.append({**row, "ratio": values["peak"] / found["gradients"]["peak"]})
    return rows


LINES: dict[str, Line] = {
    "profile": Line("Profile of N examples against one gradient of the same N", profile_against_gradient, 1.5),
    "gram": Line("Gram matrix of examples against their gradients one by one", gram_against_gradients),
    "projected": Line("A promise to each of m requests (`rules.projected`)", projected),
    "memory": Line("Peak memory of passes over a data set against one microbatch of gradients", peak_memory, 1.3),
}


def _compared(seconds: dict[str, list[float]]) -> Row:
    """The spread of two timings, and of their ratio."""
    first, second = seconds
    row = {f"{name}_{key}": value for name in seconds for key, value in spread(seconds[name]).items()}
    return {**row, **ratios(seconds[first], seconds[second])}
