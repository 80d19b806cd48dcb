"""How long one step of each method takes: gradients, update and new parameters, in one jitted call."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import hamu_jax
from experiments import methods
from experiments.comparison.modality import Modality
from experiments.comparison.settings import methods_of
from experiments.runs.config import replaced
from experiments.runs.run_store import method_of
from experiments.runs.timing import clocked, interleaved
from experiments.runs.unlearning import Scenario, step_of
from hamu_jax import report

REPEATS, FEW = 100, 2


def time_steps(modality: Modality, name: str, settings: Any, mesh: Any) -> tuple[dict[str, Any], list[str], Figure]:
    """The time of a step of every method: numbers, sections of text, a picture."""
    modality.train_missing(settings, mesh)
    scenario, size = modality.scenario(settings, mesh), settings.method.batch_size
    load = os.getloadavg()[0]
    runs = {method: replaced(settings, method=method).method for method in methods_of(modality, name, settings)}
    steps = {name: clocked(_step(scenario, method_of(run, scenario.subject), size)) for name, run in runs.items()}
    seconds = interleaved(steps, FEW if settings.sweep.smoke else REPEATS)
    times = {method: 1e3 * float(np.median(values)) for method, values in seconds.items()}
    count = len(next(iter(seconds.values())))
    words = (
        f"Milliseconds per step: the median of {count} steps, each waited for, on batches of at most {size} on the device; "
        f"load average before: {load:.2f}. FT and GA compute both gradients, of which they use one: the driver measures both."
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(times), list(times.values()))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per step")
    table = report.table(["method", "ms per step"], [[method, f"{value:.2f}"] for method, value in times.items()])
    numbers = {"load average before": load, "steps": count, "milliseconds": times}
    return numbers, ["# The time of a step", words, table], figure


def _step(scenario: Scenario, built: methods.Built, size: int) -> Callable[[], Any]:
    """A step of a method, always from the same parameters, so that their values stay the same."""
    data = (scenario.retain, scenario.subject.forget)
    batches = jax.device_put([jax.tree.map(lambda x: x[:size], examples) for examples in data])
    step = jax.jit(step_of(hamu_jax.paired_value_and_grad(built.loss, **built.options), built.optimizer))
    params, state = scenario.subject.params, built.optimizer.init(scenario.subject.params)
    return lambda: step(params, state, *batches)
