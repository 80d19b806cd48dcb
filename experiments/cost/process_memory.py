"""The most memory that one calculation needs, measured in a process of its own.

    python -m experiments.cost.process_memory CASE EXAMPLES MICROBATCH

prints, as JSON, the resident memory before the calculation (libraries, data and parameters) and at its peak, in bytes.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import hamu_jax
from experiments.cost import small_models

ROOT = Path(__file__).parents[2]


def gradients(task: small_models.SmallModel, microbatch: int) -> Any:
    """One microbatch of per-example gradients: the yardstick."""
    few = jax.tree.map(lambda x: x[:microbatch], task.batch)
    return jax.jit(lambda p, b: hamu_jax.per_example_grads(task.loss, p, b))(task.params, few)


def directional(task: small_models.SmallModel, microbatch: int) -> Any:
    """A hardness profile along one direction, inside one jit."""
    return jax.jit(lambda p, b, v: hamu_jax.directional(task.loss, p, b, v, microbatch))(task.params, task.batch, task.params)


def assess(task: small_models.SmallModel, microbatch: int) -> Any:
    """The whole assessment, a quarter of the examples to be forgotten: five profiles, one of gradient norms."""
    size = len(task.batch["label"]) // 4
    forget, retain = (jax.tree.map(lambda x, part=part: x[part], task.batch) for part in (slice(size), slice(size, None)))
    return hamu_jax.assess(task.loss, task.params, retain, forget, microbatch_size=microbatch).verdict


CASES: dict[str, Callable[[small_models.SmallModel, int], Any]] = {
    "gradients": gradients,
    "directional": directional,
    "assess": assess,
}


def memory(field: str) -> int:
    """Bytes of resident memory that this process holds now (`VmRSS`) or held at most (`VmHWM`).

    `resource.getrusage` would count what the parent held when it started this process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def in_subprocess(case: str, examples: int, microbatch: int) -> dict[str, int]:
    """Runs this file as a program."""
    command = [sys.executable, "-m", "experiments.cost.process_memory", case, str(examples), str(microbatch)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(case: str, examples: int, microbatch: int) -> dict[str, int]:
    """Measures one case on a perceptron of 860,000 parameters: the gradient of one example takes 3.4 MB."""
    task = small_models.mlp(examples, features=784, hidden=512)
    jax.block_until_ready((jnp.zeros(()) + 1.0, task.params, task.batch))  # the backend is up
    before = memory("VmRSS")
    jax.block_until_ready(CASES[case](task, microbatch))
    return {"before": before, "peak": memory("VmHWM")}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
