"""Times of functions that are compared: taken in turn, so that what else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds that each function takes, `repeats` times in turn, after one call each that compiles and warms up."""
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """The median, the quartiles and the least of some times, in milliseconds."""
    low, middle, high = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])
    return {"median_ms": float(middle), "low_ms": float(low), "high_ms": float(high), "least_ms": 1e3 * min(seconds)}


def ratios(seconds: list[float], against: list[float]) -> dict[str, float]:
    """The median and the quartiles of the ratios of times that were taken one right after the other."""
    low, middle, high = np.quantile(np.divide(seconds, against), [0.25, 0.5, 0.75])
    return {"ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high)}
