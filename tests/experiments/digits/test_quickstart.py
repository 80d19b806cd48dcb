"""The quickstart: its plumbing, and that it forgets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hamu_jax
from experiments.data import digits
from experiments.digits.config import Quickstart
from experiments.digits.quickstart import run_quickstart

FILES = [
    "hardness.png",
    "history.jsonl",
    "losses.png",
    "path.png",
    "report.html",
    "report.json",
    "report.md",
    "trust_region.png",
]


pytestmark = pytest.mark.usefixtures("as_users_promote")


def read(out: Path) -> dict[str, Any]:
    assert sorted(path.name for path in out.iterdir()) == FILES
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_digits_are_split_by_class() -> None:
    split = digits.load(0)
    sizes = [len(part["label"]) for part in split]
    assert sum(sizes) == 1797
    np.testing.assert_allclose(np.array(sizes) / 1797, [0.6, 0.2, 0.2], atol=1e-3)
    images = np.concatenate([part["image"] for part in split]).reshape(1797, -1)
    assert images.min() == 0
    assert images.max() == 1
    assert len(np.unique(images, axis=0)) == 1797, "no example is in two parts"
    for part in split:
        retain, forget = digits.by_class(part, 3)
        assert set(forget["label"]) == {3}
        assert set(retain["label"]) == set(range(10)) - {3}
        assert len(retain["image"]) + len(forget["image"]) == len(part["label"])
        np.testing.assert_allclose(np.bincount(part["label"]) / len(part["label"]), 0.1, atol=0.01)
    again, other = digits.load(0), digits.load(1)
    np.testing.assert_array_equal(again.test["image"], split.test["image"])
    assert not np.array_equal(other.test["image"], split.test["image"])


@pytest.mark.slow
def test_plumbing(tmp_path: Path) -> None:
    settings = Quickstart(out=tmp_path / "out", epochs=1, steps=3, forget_class=7, batch_size=16)
    assert run_quickstart(settings) == tmp_path / "out" / "report.md"
    record = read(tmp_path / "out")
    assert record["steps"] == 3
    assert record["settings"]["forget_class"] == 7
    assert list(record["models"]) == ["full", "unlearned", "retrained"]
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# Forgetting the digit 7\n")


def test_a_class_that_is_no_digit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="forget_class: got 12, expected a digit from 0 to 9"):
        run_quickstart(Quickstart(out=tmp_path, forget_class=12))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "forget_class"), [(25, 3), (6, 8)])
def test_the_default_run_forgets_and_keeps(tmp_path: Path, epochs: int, forget_class: int) -> None:
    run_quickstart(Quickstart(out=tmp_path / "out", epochs=epochs, forget_class=forget_class))
    record = read(tmp_path / "out")
    unlearned, full = record["models"]["unlearned"], record["models"]["full"]
    assert full["test forget/accuracy"] >= 0.75, "there was something to forget"
    assert record["status"] == "reached"
    assert abs(record["before and after"]["mean loss, forget"][1] - np.log(10)) <= 0.15 * np.log(10)
    assert unlearned["test retain/accuracy"] >= full["test retain/accuracy"] - 0.01
    assert unlearned["test forget/accuracy"] <= 0.5
    history = hamu_jax.History.read(tmp_path / "out" / "history.jsonl")
    np.testing.assert_array_equal(history.column("step"), np.arange(record["steps"] + 1))
