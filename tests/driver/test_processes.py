"""Two real processes that unlearn together over the loopback network, and what happens when one of them dies."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_as_processes import together

import hamu_jax

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
HELPERS = TESTS / "helpers"


def start_both(directory: Path, *arguments: str) -> list[tuple[int, str]]:
    """Runs both to their ends: `(exit code, what it said)` of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join((str(TESTS.parent), str(HELPERS)))
    running = [
        subprocess.Popen(
            [sys.executable, str(HELPERS / "run_as_processes.py"), port, number, str(directory), *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in ("0", "1")
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> hamu_jax.Unlearned:
    """The same run in one process, on one device."""
    return together(tmp_path_factory.mktemp("alone"))


def assert_near(params: dict[str, np.ndarray], history: hamu_jax.History, expected: hamu_jax.Unlearned) -> None:
    """Equal, but for the order of sums."""
    for name, value in expected.params.items():
        np.testing.assert_allclose(params[name], value, atol=2e-6)
    for name in ("retain_loss", "forget_loss", "kappa", "forget_measured", "retain/loss"):
        np.testing.assert_allclose(history.column(name), expected.history.column(name), rtol=1e-3, atol=1e-5, err_msg=name)


def test_two_processes_agree_with_one(tmp_path: Path, alone: hamu_jax.Unlearned) -> None:
    ended = start_both(tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    for number in range(2):
        with np.load(tmp_path / f"process{number}.npz") as params:
            assert_near(dict(params), hamu_jax.History.read(tmp_path / f"process{number}.jsonl"), alone)


def test_one_dies(tmp_path: Path, alone: hamu_jax.Unlearned) -> None:
    """The other says so and ends; the checkpoint before is whole, and one process alone goes on from it."""
    (survivor, said), (dead, _) = start_both(tmp_path, "19")
    assert dead == -signal.SIGKILL
    assert survivor != 0
    assert "another task died" in said
    held = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    assert "4" in held, "written before"
    assert "12" not in held
    resumed = together(tmp_path / "checkpoints")
    assert resumed.history.rows[0]["retain_loss"] is not None
    assert_near(dict(resumed.params), resumed.history, alone)
