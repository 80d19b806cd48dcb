"""The paper's PyTorch code, run beside ours in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.cost.process_memory import ROOT

NEEDED = ("torch", "torchvision", "transformers", "peft", "accelerate")
HELD = "hamu/methods/hamu.py"  # a file that a clone of the paper's repository has


class Reference:
    """A PyTorch process (`torch_worker`); a context manager, which ends it.

    Args:
      clone: the directory of a clone of the paper's repository.
      threads: that PyTorch may use. Default: as many as JAX, one a core.

    Raises:
      ValueError: if the directory is no such clone.
      ImportError: if PyTorch or what the paper's code needs is missing, naming the extra.
    """

    def __init__(self, clone: Path, threads: int | None = None) -> None:
        if not (clone / HELD).exists():
            raise ValueError(f"reference: got {clone}, expected a clone of the paper's repository, with {HELD}")
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            raise ImportError(f"reference: {', '.join(missing)} not found: pip install 'hamu_jax[torch]'")
        count = len(os.sched_getaffinity(0)) if threads is None else threads
        self._made = clone, threads
        command = [sys.executable, "-m", "experiments.cost.torch_worker", str(clone.resolve()), str(count)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def again(self) -> "Reference":
        """Another such process."""
        return Reference(*self._made)

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **order: Any) -> Any:
        """Has a method of `torch_worker.Worker` called; returns its answer.

        Raises:
          RuntimeError: if the process has ended; what it had to say is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # then it does not answer either
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"reference: the PyTorch process ended at {do}, with status {self._process.wait()}: see above")
        return json.loads(answer)
