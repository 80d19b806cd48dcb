"""The measurements of the benchmark. A new one is an entry of `MEASUREMENTS`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import hamu_jax
from experiments.cost import against_pytorch, first_step, process_memory, small_models
from experiments.cost.pytorch_process import Reference
from experiments.cost.rows import Row, Scale, compared, judged
from experiments.runs.timing import clocked, interleaved, spread
from hamu_jax import rules


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
      title: what is measured, in words.
      measure: gives rows; those of PyTorch only if there is a clone of the paper's code.
    """

    title: str
    measure: Callable[[Scale, Reference | None], list[Row]]


def profile_against_gradient(scale: Scale) -> list[Row]:
    """`<g_i, v>` for all of N examples, against the gradient of their mean loss."""
    rows: list[Row] = []
    for name, size in scale.examples:
        task = small_models.SMALL_MODELS[name](size)
        profile = jax.jit(lambda p, b, v, loss=task.loss: hamu_jax.directional(loss, p, b, v))
        gradient = jax.jit(lambda p, b, loss=task.loss: jax.grad(lambda q: jnp.mean(loss(q, b)))(p))
        run = {
            "profile": clocked(lambda f=profile, t=task: f(t.params, t.batch, t.params)),
            "gradient": clocked(lambda f=gradient, t=task: f(t.params, t.batch)),
        }
        seconds = interleaved(run, scale.repeats)
        rows.append(compared(f"{name}, {size} examples", "one gradient", seconds["profile"], seconds["gradient"], target=1.5))
    return rows


def gram_against_gradients(scale: Scale) -> list[Row]:
    """All inner products of some examples' gradients, against these gradients one after the other."""
    rows: list[Row] = []
    for name in small_models.SMALL_MODELS:
        task = small_models.SMALL_MODELS[name](scale.pairs)
        alone = [jax.tree.map(lambda x, i=i: x[i : i + 1], task.batch) for i in range(scale.pairs)]
        gram = jax.jit(lambda p, b, loss=task.loss: hamu_jax.gram(loss, p, b))
        single = jax.jit(lambda p, b, loss=task.loss: jax.grad(lambda q: loss(q, b)[0])(p))
        run = {
            "gram": clocked(lambda f=gram, t=task: f(t.params, t.batch)),
            "gradients": clocked(lambda f=single, t=task, alone=alone: [f(t.params, example) for example in alone]),
        }
        seconds = interleaved(run, scale.repeats)
        rows.append(compared(f"{name}, {scale.pairs} examples", "gradients one by one", seconds["gram"], seconds["gradients"]))
    return rows


def all_against_mean_gradient(scale: Scale) -> list[Row]:
    """All inner products of N examples' gradients, and their norms, against the gradient of their mean loss."""
    rows: list[Row] = []
    for name, size in scale.examples:
        task = small_models.SMALL_MODELS[name](size)
        functions = {
            "Gram matrix": lambda p, b, loss=task.loss: hamu_jax.gram(loss, p, b),
            "norms": lambda p, b, loss=task.loss: hamu_jax.per_example_norms(loss, p, b),
            "gradient": lambda p, b, loss=task.loss: jax.grad(lambda q: jnp.mean(loss(q, b)))(p),
        }
        jitted = {what: jax.jit(function) for what, function in functions.items()}
        run = {what: clocked(lambda f=f, t=task: f(t.params, t.batch)) for what, f in jitted.items()}
        seconds = interleaved(run, scale.repeats)
        for what, target in (("Gram matrix", 3.0), ("norms", 1.5)):
            case = f"{name}, {size} examples: {what}"
            rows.append(compared(case, "one mean gradient of the same", seconds[what], seconds["gradient"], target=target))
    return rows


def projected(scale: Scale) -> list[Row]:
    """A promise to each of m requests, from inner products, in float32."""
    solve = jax.jit(rules.projected().solve)
    rows: list[Row] = []
    for m in scale.requests:
        for kind, cosine in (("feasible", 0.1), ("infeasible", 1.5)):
            problem = _requests(m, cosine)
            seconds = interleaved({"solve": clocked(lambda p=problem: solve(p))}, scale.repeats)["solve"]
            solution = solve(problem).solution
            assert solution is not None, "a rule for many requests gives one"
            quality = {"fraction": float(solution[0]), "kkt": float(solution[2])}
            rows.append({"case": f"m = {m}, {kind}", **spread(seconds), **quality})
    return rows


def _requests(m: int, cosine: float) -> rules.Problem:
    """Requests that have something in common, each to get a cosine with the step."""
    rng = np.random.default_rng(m)
    rows = rng.standard_normal((m + 1, 4 * m + 8))
    rows[1:] += 0.3 * rng.standard_normal(rows.shape[1]) + 0.02 * rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gram, unit = jnp.asarray(rows @ rows.T, jnp.float32), jnp.ones((), jnp.float32)
    return rules.Problem(gram, 0.0 * unit, jnp.full(m, cosine, jnp.float32), unit)


def peak_memory(scale: Scale) -> list[Row]:
    """The peak of a process, against that of one which forms a microbatch of gradients and holds the same data."""
    measured = {case: process_memory.in_subprocess(case, scale.profile, scale.microbatch) for case in process_memory.CASES}
    rows: list[Row] = []
    for case, values in measured.items():
        size = scale.microbatch if case == "gradients" else scale.profile
        above = values["peak"] - values["before"]
        row = {"case": f"{case}, {size} examples", "peak_mb": values["peak"] / 1e6, "above_start_mb": above / 1e6}
        ratio = values["peak"] / measured["gradients"]["peak"]
        rows.append(judged({**row, "ratio": ratio}, 1.3))
    return rows


def _alone(measure: Callable[[Scale], list[Row]]) -> Callable[[Scale, Reference | None], list[Row]]:
    """A line that PyTorch has no part in."""
    return lambda scale, _: measure(scale)


MEASUREMENTS: dict[str, Measurement] = {
    "update": Measurement("New parameters from two gradients that are there", against_pytorch.update),
    "step": Measurement("A whole step: two gradients, one after the other, and new parameters", against_pytorch.step),
    "per-example": Measurement("Hardness profile and gradients of single images", against_pytorch.per_example),
    "evaluation": Measurement("Loss and accuracy of images", against_pytorch.evaluation),
    "profile": Measurement("Profile of N examples against one gradient of the same N", _alone(profile_against_gradient)),
    "gram": Measurement("Gram matrix of examples against their gradients one by one", _alone(gram_against_gradients)),
    "all examples": Measurement("All examples' gradients against one mean gradient", _alone(all_against_mean_gradient)),
    "projected": Measurement("A promise to each of m requests (`rules.projected`)", _alone(projected)),
    "first step": Measurement("From the start of a process to the end of its first step", first_step.measure),
    "memory": Measurement("Peak memory of passes over a data set against one microbatch of gradients", _alone(peak_memory)),
    "step memory": Measurement("Peak memory of a process that makes steps", first_step.step_memory),
}
