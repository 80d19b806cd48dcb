"""The commands: what they list, that `--help` needs no JAX, and that devices are placed for each of them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hamu_jax
from experiments.__main__ import COMMANDS

ROOT = Path(hamu_jax.__file__).parents[1]
SUBCOMMANDS = {
    "digits": ("assess", "owners", "sweep"),
    "vision": ("train", "retrain", "unlearn", "evaluate", "report", "sweep"),
    "language": ("get-smollm2", "finetune", "retrain", "unlearn", "evaluate", "report", "sweep"),
    "cost": ("benchmark", "memory", "communication"),
}
WITHOUT_JAX = """
import runpy, sys
program = sys.argv[1]
sys.argv = [program, *sys.argv[2:], "--help"]
try:
    runpy.run_module(f"experiments.{program}", run_name="__main__")
finally:
    assert "jax" not in sys.modules, "JAX was imported"
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_command_is_listed() -> None:
    said = run("-m", "experiments").stdout
    assert all(f"python -m experiments.{name} " in said for name in COMMANDS)
    for name, subcommands in SUBCOMMANDS.items():
        assert COMMANDS[name].startswith(", ".join(subcommands))
        importlib.import_module(f"experiments.{name}.__main__")


@pytest.mark.parametrize("program", COMMANDS)
def test_help_needs_no_jax(program: str) -> None:
    """The usage line is the command to type."""
    for subcommand in SUBCOMMANDS.get(program, ("",))[-1:]:
        result = run("-c", WITHOUT_JAX, program, *filter(None, [subcommand]))
        assert result.returncode == 0, result.stderr
        assert f"usage: python -m experiments.{program} {subcommand}".rstrip() in result.stdout


@pytest.mark.parametrize(("options", "message"), [("--mesh nonsense=7", "nonsense"), ("--devices 3 --mesh data=7", "data=7")])
def test_every_command_places_its_devices(tmp_path: Path, options: str, message: str) -> None:
    """Also training, which computes on the first device."""
    train = run("-m", "experiments.vision", "train", "--out", str(tmp_path / "out"), *options.split())
    assert train.returncode == 1
    assert "mesh: got " in train.stderr
    assert message in train.stderr
    assert not (tmp_path / "out").exists()
