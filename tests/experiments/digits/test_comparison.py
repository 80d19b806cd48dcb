"""The comparison of all methods on digits, at reduced scale."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.comparison.config import SweepSettings
from experiments.comparison.settings import seed_pairs
from experiments.digits.comparison import DIGITS, sweep_digits
from experiments.digits.config import METHOD, Problem, Sweep, Training

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")

FEW = SweepSettings(
    methods=("gdiff", "hamu-q"),
    seeds=(0,),
    learning_rates=(0.02, 0.2),
    improvements=(0.3,),
    weights=(0.5,),
    extensions=0,
)


@pytest.mark.slow
def test_a_small_comparison_is_resumed(tmp_path: Path) -> None:
    """A complete run is not made again; a missing one is, with the same numbers."""
    method = dataclasses.replace(METHOD, steps=4, evaluations=2)
    settings = Sweep(Problem(training=Training(epochs=2)), method, FEW, out=tmp_path)
    path = sweep_digits(settings, "baselines")
    assert path == tmp_path / "baselines-digit3" / "baselines.md"
    first, text = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), path.read_text(encoding="utf-8")
    records = sorted(tmp_path.glob("runs/*/run.json"))
    assert len(records) == 4
    assert list(first["methods"]) == ["full", "retrained", "gdiff", "hamu-q"]
    assert "| hamu-q | 0" in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    stamps = {record: record.stat().st_mtime_ns for record in records}
    records[0].unlink()
    sweep_digits(settings, "baselines")
    assert [record for record in records if record.stat().st_mtime_ns != stamps[record]] == [records[0]]
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["methods"] == first["methods"]
    timing = sweep_digits(dataclasses.replace(settings, sweep=dataclasses.replace(FEW, smoke=True)), "timing")
    assert set(json.loads(timing.with_suffix(".json").read_text(encoding="utf-8"))["milliseconds"]) == {"gdiff", "hamu-q"}


def test_each_seed_has_a_model_of_its_own() -> None:
    """Unless training seeds are given: then every model is unlearned with every seed."""
    few = dataclasses.replace(FEW, seeds=(0, 1))
    assert seed_pairs(DIGITS, Sweep(sweep=few)) == ((0, 0), (1, 1))
    assert seed_pairs(DIGITS, Sweep(sweep=dataclasses.replace(few, training_seeds=(5,)))) == ((5, 0), (5, 1))
