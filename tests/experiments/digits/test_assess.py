"""The assessment as an experiment: its plumbing at reduced scale."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hamu_jax

ROOT = Path(hamu_jax.__file__).parents[1]
FILES = ["assessment.json", "assessment.md", "blocks.png", "collateral.png", "examples.png", "trade_off.png"]


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--epochs", "1", "--forget-class", "7", "--improvement", "0.3"]
    run: Any = subprocess.run(
        [sys.executable, "-m", "experiments.digits", "assess", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    text = (tmp_path / "out" / "assessment.md").read_text(encoding="utf-8")
    assert run.stdout.startswith(text)
    record = json.loads((tmp_path / "out" / "assessment.json").read_text(encoding="utf-8"))
    assert text.startswith(f"# Before forgetting the digit 7\n\n{record['assessment']['verdict']}\n")
    assert "| hidden/kernel" in text
    assert all(f"({name})" in text for name in FILES if name.endswith(".png"))
    assert record["settings"]["epochs"] == 1
    assert record["settings"]["command"] == "python -m experiments.digits assess " + " ".join(arguments)
    assert record["assessment"]["improvement"] == 0.3
    assert "jax" in record["environment"]
    sizes = [len(record["assessment"][name]) for name in ("forget_change", "retain_change")]
    assert sum(sizes) == 1077, "all training images"
