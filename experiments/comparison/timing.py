"""How long one step of each method takes: gradients, update and new parameters, in one jitted call."""

import os
import time
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import hamu_jax
from experiments import methods
from experiments.comparison.modality import Modality
from experiments.comparison.settings import methods_of
from experiments.runs.config import replaced
from experiments.runs.run_store import method_of
from experiments.runs.unlearning import Scenario
from hamu_jax import report

WARM_UP, ROUNDS = 2, 3


def time_steps(modality: Modality, name: str, settings: Any, mesh: Any) -> tuple[dict[str, Any], list[str], Figure]:
    """The time of a step of every method: numbers, sections of text, a picture."""
    scenario = modality.scenario(settings, mesh)
    built = {
        method: method_of(replaced(settings, method=method).method, scenario.subject)
        for method in methods_of(modality, name, settings)
    }
    scale = {"rounds": 1, "steps": 2} if settings.sweep.smoke else {"steps": modality.timed_steps}
    timing = measure_steps(scenario, built, settings.method.batch_size, **scale)
    times = timing["milliseconds"]
    words = (
        f"Milliseconds per step: the median of {timing['steps']} steps, each waited for, on batches of at most "
        f"{settings.method.batch_size} on the device; load average before: {timing['load average before']:.2f}. FT and GA "
        "compute both gradients, of which they use one: the driver measures both."
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(times), list(times.values()))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per step")
    table = report.table(["method", "ms per step"], [[method, f"{value:.2f}"] for method, value in times.items()])
    return timing, ["# The time of a step", words, table], figure


def measure_steps(
    scenario: Scenario,
    built: dict[str, methods.Built],
    batch_size: int,
    *,
    steps: int,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """`milliseconds`: the median time of each method's step, in turns, so that a disturbance meets all; and the load before."""
    load = os.getloadavg()[0]
    batches = [
        jax.device_put(jax.tree.map(lambda x: x[:batch_size], data)) for data in (scenario.retain, scenario.subject.forget)
    ]
    steppers = {name: _Stepper(method, scenario.subject.params, batches) for name, method in built.items()}
    for stepper in steppers.values():
        stepper.times(WARM_UP)
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, stepper in steppers.items():
            times[name] += stepper.times(steps)
    return {
        "load average before": load,
        "steps": rounds * steps,
        "milliseconds": {name: 1e3 * float(np.median(values)) for name, values in times.items()},
    }


class _Stepper:
    """One method's step."""

    def __init__(self, built: methods.Built, params: Any, batches: list[Any]) -> None:
        gradients = hamu_jax.paired_value_and_grad(built.loss, **built.options)

        @jax.jit
        def step(params: Any, state: Any, retain: Any, forget: Any) -> tuple[Any, Any, Any]:
            losses, grads = gradients(params, retain, forget)
            updates, state = built.optimizer.update(grads.retain, state, params, forget_grads=grads.forget)
            return optax.apply_updates(params, updates), state, losses

        self.step, self.batches = step, batches
        self.carry = (params, built.optimizer.init(params))

    def times(self, count: int) -> list[float]:
        """Seconds of each of `count` steps, always from the same parameters, so that their values stay the same."""
        seconds = []
        for _ in range(count):
            begun = time.perf_counter()
            jax.block_until_ready(self.step(*self.carry, *self.batches))
            seconds.append(time.perf_counter() - begun)
        return seconds
