"""The benchmark: its plumbing at reduced scale, and its table. No number is looked at but those that tell two sides apart."""

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments.cost.benchmark import run_benchmark
from experiments.cost.config import Benchmark
from experiments.cost.measurements import MEASUREMENTS
from experiments.cost.pytorch_process import NEEDED, Reference
from experiments.cost.rows import alone, compared, judged
from experiments.runs.timing import interleaved, ratios, spread

CLONE = os.environ.get("HAMU_REFERENCE")  # the directory of a clone of the paper's repository


@pytest.mark.slow
def test_the_benchmark(tmp_path: Path) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it
        path = run_benchmark(Benchmark(tmp_path, smoke=True))
    record = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    assert list(record["lines"]) == list(MEASUREMENTS)
    for name, line in record["lines"].items():
        assert f"## {name}\n\n{line['title']}." in text
        for row in line["rows"]:
            assert f"\n| {row['case']} |" in text
            assert ("met" in row) == ("target" in row)
            assert all(value > 0 for key, value in row.items() if key.endswith("_ms"))
    assert "nothing of PyTorch was measured" in text
    cold, warm = record["lines"]["first step"]["rows"]
    assert cold["compiled"] > 0 == cold["from_cache"]
    assert (warm["compiled"], warm["from_cache"]) == (0, cold["compiled"])
    assert {"jax", "device", "load_average_before", "cores"} <= set(record["environment"])
    assert record["settings"]["repeats"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmark.json", "benchmark.md", "benchmark.png"]
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(
    CLONE is None or any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs PyTorch (the extra `torch`) and HAMU_REFERENCE, the directory of a clone of the paper's repository",
)
def test_both_sides_compute_the_same(tmp_path: Path) -> None:
    config = Benchmark(tmp_path, reference=Path(CLONE or ""), only=("update", "step"), smoke=True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run_benchmark(config)
    record = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    rows = [row for line in record["lines"].values() for row in line["rows"] if "steps_apart" in row]
    assert len(rows) == 5
    assert all(row["steps_apart"] < 1e-4 for row in rows)
    assert all(row.get("losses_apart", 0.0) < 1e-4 for row in rows)
    assert "torch" in record["environment"]


def test_a_line_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=re.escape("only: got nothing, expected some of update, step,")):
        run_benchmark(Benchmark(only=("profile", "nothing")))


def test_a_directory_that_is_no_clone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"reference: got {tmp_path}, expected a clone of the paper's repository"):
        run_benchmark(Benchmark(tmp_path / "out", reference=tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What looks like a clone of the paper's repository."""
    held = tmp_path / "hamu" / "methods" / "hamu.py"
    held.parent.mkdir(parents=True)
    held.write_text("raise ImportError('not theirs')\n", encoding="utf-8")
    return tmp_path


def test_without_pytorch(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(ImportError, match=re.escape("reference: torch not found: pip install 'hamu_jax[torch]'")):
        Reference(clone)


def test_a_pytorch_process_that_ends(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever made it end, the order at which it did is named."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("sys.executable", "false")
    with (
        Reference(clone) as reference,
        pytest.raises(RuntimeError, match="the PyTorch process ended at prepare, with status 1"),
    ):
        reference.ask("prepare", name="resnet20")


def test_times_are_taken_in_turn() -> None:
    """After two calls each to warm up."""
    calls: list[str] = []

    def call(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    functions: Any = {name: lambda name=name: call(name) for name in "ab"}
    assert interleaved(functions, 3) == {"a": [5.0, 7.0, 9.0], "b": [6.0, 8.0, 10.0]}
    assert "".join(calls) == "ab" * 5


def test_spread_and_ratios() -> None:
    assert spread([0.005, 0.001, 0.002, 0.003, 0.004]) == {"median_ms": 3, "low_ms": 2, "high_ms": 4, "least_ms": 1}
    assert ratios([2.0, 6.0, 1.0], [1.0, 2.0, 1.0]) == {"ratio": 2.0, "ratio_low": 1.5, "ratio_high": 2.5}


def test_rows() -> None:
    row = compared("a case", "another", [2.0], [4.0], target=0.4)
    assert (row["case"], row["against"], row["ours_median_ms"], row["other_median_ms"]) == ("a case", "another", 2000, 4000)
    assert (row["ratio"], row["target"], row["met"]) == (0.5, 0.4, False)
    assert judged(row, 0.5)["met"]
    assert "met" not in compared("a case", "another", [2.0], [4.0])
    assert "ratio" not in alone("a case", [2.0])
