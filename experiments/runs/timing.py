"""Times of functions that are compared: taken in turn, so that what else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

Seconds: TypeAlias = dict[str, list[float]]

FEW, ENOUGH = 5, 60.0
SETTLE = 0.005  # seconds: the threads of the function before still look for work, and would take a core from the next


def clocked(function: Callable[[], Any]) -> Callable[[], float]:
    """A function that calls another, waits for what it returns, and says how many seconds that took."""

    def call() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - begin

    return call


def interleaved(functions: Mapping[str, Callable[[], float]], repeats: int) -> Seconds:
    """Seconds that each function says it takes, `repeats` times in turn, or `FEW` times if more take over `ENOUGH` seconds.

    Before that each is called twice: to compile, and again, since what a first call returns may be placed otherwise than what
    it was given, and a function of its own results is then compiled anew.
    """
    for function in 2 * tuple(functions.values()):
        function()
    seconds: Seconds = {name: [] for name in functions}
    begun = time.perf_counter()
    for done in range(repeats):
        if done >= FEW and time.perf_counter() - begun > ENOUGH:
            break
        for name, function in functions.items():
            time.sleep(SETTLE)
            seconds[name].append(function())
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """The median, the quartiles and the least of some times, in milliseconds."""
    low, middle, high = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])
    return {"median_ms": float(middle), "low_ms": float(low), "high_ms": float(high), "least_ms": 1e3 * min(seconds)}


def ratios(seconds: list[float], against: list[float]) -> dict[str, float]:
    """The median and the quartiles of the ratios of times that were taken one right after the other."""
    low, middle, high = np.quantile(np.divide(seconds, against), [0.25, 0.5, 0.75])
    return {"ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high)}
