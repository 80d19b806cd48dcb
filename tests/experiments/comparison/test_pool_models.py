"""One table of several trained models: its numbers, and what is not to be pooled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.comparison.config import Pool
from experiments.comparison.pooling import pool_models

MEASURED = [f"{part}/accuracy" for part in ("retain", "forget", "test retain", "test forget")]


def left(path: Path, value: float, *, rate: float = 0.1, **changed: Any) -> Path:
    """A file as `sweep baselines` leaves it, in which every number is the same."""
    numbers = {name: [value, None] for name in (*MEASURED, "gap")} | {"test membership": None, "hypervolume": [0.5, 0.1]}
    models = {name: {"numbers": numbers} for name in ("full", "retrained")}
    method = {"setting": {"method": "ga", "learning_rate": rate, "improvement": 0.0}, "numbers": numbers}
    settings = {"command": "python", "rho": 0.5, "seeds": [0], "training_seeds": [], "training": {"epochs": 7, "seed": 0}}
    held = {"settings": {**settings, **changed}, "environment": {"date": "2026-11-27"}, "methods": {**models, "ga": method}}
    path.write_text(json.dumps(held), encoding="utf-8")
    return path


def test_models_count_alike(tmp_path: Path) -> None:
    """Whatever the number of runs of each; the deviation is that over models."""
    files = (
        left(tmp_path / "a.json", 0.2, seeds=[0, 1]),
        left(tmp_path / "b.json", 0.6, training={"epochs": 7, "seed": 1}),
        left(tmp_path / "c.json", 0.7, training_seeds=[2]),
    )
    text = pool_models(Pool(files, tmp_path / "out"))
    row = json.loads(text.with_suffix(".json").read_text(encoding="utf-8"))["methods"]["ga"]
    np.testing.assert_allclose(row["numbers"]["gap"], [0.5, np.std([0.2, 0.6, 0.7], ddof=1)])
    assert row["numbers"]["test membership"] is None
    assert "hypervolume" not in row["numbers"]
    assert row["setting"]["learning_rate"] == 0.1
    assert "of which there are 2 and 1 and 1" in text.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"training": {"epochs": 7, "seed": 0}}, r"files: got .*b.json of training seed 0, which .*a.json has already"),
        ({"training_seeds": [1, 2]}, r"files: got .*b.json with 2 trained models, expected one"),
        ({"training": {"epochs": 8, "seed": 1}}, r"training: got \{'epochs': 8\} in .*b.json, expected \{'epochs': 7\}"),
        ({"rho": 1.0, "training_seeds": [1]}, r"rho: got 1.0 in .*b.json, expected 0.5 as in .*a.json"),
        ({"rate": 0.2, "training_seeds": [1]}, r"setting of ga: got .*0.2.* in .*b.json, expected .*0.1"),
    ],
)
def test_what_does_not_belong_together(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    files = (left(tmp_path / "a.json", 0.2), left(tmp_path / "b.json", 0.6, **changed))
    with pytest.raises(ValueError, match=message):
        pool_models(Pool(files, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    first = left(tmp_path / "a.json", 0.2)
    (tmp_path / "b.json").write_text("{}", encoding="utf-8")
    for other, message in ((tmp_path / "c.json", "which is not there"), (tmp_path / "b.json", "expected what .* left")):
        with pytest.raises(ValueError, match=message):
            pool_models(Pool((first, other), tmp_path / "out"))
    with pytest.raises(ValueError, match="files: got 1, expected two or more"):
        pool_models(Pool((first,), tmp_path / "out"))
