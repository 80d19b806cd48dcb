"""The benchmark: its plumbing at reduced scale, and its table. No number is looked at."""

import json
import re
from pathlib import Path

import jax
import pytest

from experiments import benchmark
from experiments.benchmarks.lines import LINES
from experiments.benchmarks.timing import interleaved, ratios, spread


@pytest.mark.slow
def test_the_benchmark(tmp_path: Path) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        path = benchmark.main(benchmark.Config(tmp_path, smoke=True))
    record = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    assert list(record["lines"]) == list(LINES)
    for name, line in record["lines"].items():
        assert f"## {name}\n\n{line['title']}." in text
        for row in line["rows"]:
            assert f"\n| {row['case']} |" in text
            assert ("met" in row) == (line["target"] is not None)
            assert all(value > 0 for key, value in row.items() if key.endswith("_ms"))
    assert next(row["case"] for row in record["lines"]["memory"]["rows"]) == "gradients, 64 examples"
    assert {"jax", "device", "load_average_before", "cores"} <= set(record["environment"])
    assert record["settings"]["repeats"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmark.json", "benchmark.md"]


def test_a_line_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=re.escape("only: got nothing, expected some of profile, gram, projected, memory")):
        benchmark.main(benchmark.Config(only=("profile", "nothing")))


def test_times_are_taken_in_turn() -> None:
    """After one call each to warm up."""
    calls: list[str] = []
    seconds = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "ab" * 4
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_spread_and_ratios() -> None:
    assert spread([0.005, 0.001, 0.002, 0.003, 0.004]) == {"median_ms": 3, "low_ms": 2, "high_ms": 4, "least_ms": 1}
    assert ratios([2.0, 6.0, 1.0], [1.0, 2.0, 1.0]) == {"ratio": 2.0, "ratio_low": 1.5, "ratio_high": 2.5}
