"""One of two processes that unlearn together: `python tests/processes.py PORT PROCESS DIRECTORY [DIES_AT]`.

Each has two virtual devices. The last argument has the second process die, as a machine does, when it reads that batch.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tiny_runs import FORGET, RETAIN, SGD, interrupted, loss, run

import hamu_jax
from hamu_jax import sharding

PARAMS = {"b": np.float32(0.1), "w": np.array([0.9, -1.8, 0.3, 0.0], np.float32)}  # four weights, for four devices


def split_loss(params: Any, batch: Any) -> Any:
    """The loss of `runs`, which has three weights."""
    return loss({**params, "w": params["w"][:3]}, batch)


def together(checkpoints: Path, **options: Any) -> hamu_jax.Unlearned:
    """The run: twelve steps with batches that do not divide, evaluations and checkpoints."""
    return run(
        SGD,
        loss=split_loss,
        params=PARAMS,
        steps=12,
        batch_size=(11, 5),
        measure_every=1,
        evaluation=hamu_jax.Evaluation({"retain": RETAIN, "forget": FORGET}, every=4, batch_size=90),
        checkpoints=hamu_jax.Checkpoints(checkpoints, every=4),
        **options,
    )


def main(port: str, process: int, directory: Path, dies_at: int | None) -> None:
    """What came of it goes to files of the process's own."""
    # The other notices a death after this many seconds; JAX's default is 100.
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process, heartbeat_timeout_seconds=10)
    forget = FORGET
    if dies_at is not None and process == 1:
        forget = interrupted(FORGET, dies_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    mesh = sharding.parse_mesh("fsdp=4")
    result = together(directory / "checkpoints", forget=forget, mesh=mesh)
    params = multihost_utils.process_allgather(result.params, tiled=True)
    np.savez(directory / f"process{process}.npz", **params)
    result.history.write(directory / f"process{process}.jsonl")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]) if sys.argv[4:] else None)
