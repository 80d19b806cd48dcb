"""How long one step of each method takes: gradients, update and new parameters, in one jitted call."""

import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import hamu_jax
from experiments.comparison import grid
from experiments import methods
from experiments.comparison.grid import Config
from experiments.runs.provenance import settings
from experiments.runs.unlearning import Case
from hamu_jax import report

WARM_UP, STEPS, ROUNDS = 20, 100, 5


def main(config: Config) -> Path:
    """Measures it; returns the path of the file. Run the comparison again (all runs are finished) to add it to its table."""
    case = grid.case(config, config.seeds[0])
    firsts = {setting.method: setting for setting in reversed(grid.grid(config))}
    built = {name: grid.build(config, firsts[name], case.subject) for name in config.methods}
    made = {"settings": settings("compare", config), "environment": report.environment()}
    record = {**made, **measure(case, built, config.batch_size, rounds=1 if config.smoke else ROUNDS)}
    report.write_whole(_path(config), json.dumps(record, indent=1) + "\n")
    return _path(config)


def measure(
    case: Case,
    built: dict[str, methods.Built],
    batch_size: int,
    *,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    """`milliseconds`: the median time of each method's step, in turns, so that a disturbance meets all; and the load before."""
    load = os.getloadavg()[0]
    batches = [jax.device_put(jax.tree.map(lambda x: x[:batch_size], data)) for data in (case.retain, case.subject.forget)]
    steppers = {name: _Stepper(one, case.subject.params, batches) for name, one in built.items()}
    for stepper in steppers.values():
        stepper.times(warm_up)
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, stepper in steppers.items():
            times[name] += stepper.times(steps)
    return {
        "load average before": load,
        "milliseconds": {name: 1e3 * float(np.median(values)) for name, values in times.items()},
    }


def read(config: Config) -> dict[str, Any] | None:
    """What `main` wrote, if it did."""
    path = _path(config)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def explain(record: dict[str, Any]) -> str:
    """What stands beside the times."""
    return (
        f"Milliseconds a step: the median of {STEPS * ROUNDS} steps, each waited for, after {WARM_UP} to warm up, batches of "
        f"at most {record['settings']['batch_size']} on the device; load average before: {record['load average before']:.2f}. "
        "FT and GA compute both gradients, of which they use one: the driver measures both."
    )


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
        """Seconds of each of `count` steps, always from the same parameters: their values do not drift away."""
        seconds = []
        for _ in range(count):
            begun = time.perf_counter()
            jax.block_until_ready(self.step(*self.carry, *self.batches))
            seconds.append(time.perf_counter() - begun)
        return seconds


def _path(config: Config) -> Path:
    """Where the times are kept."""
    return config.out / "timing.json"
