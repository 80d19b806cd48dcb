"""How long a process takes to its first step, and what memory steps take: each case in a process of its own.

    python -m experiments.cost.first_step RULE IMAGES

makes steps with `hamu` or `gdiff`, on the ResNet-20, or for 0 images on a tiny language model, and prints, as JSON, the seconds
to its first step, how many programs it found in JAX's persistent cache and how many it compiled, and its memory at the peak.
"""

import collections
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

BEGUN = time.perf_counter()  # importing JAX is a part of what is waited for

import jax  # noqa: E402

from experiments.cost import against_pytorch, benchmarked_models  # noqa: E402
from experiments.cost.process_memory import ROOT, memory  # noqa: E402
from experiments.cost.pytorch_process import Reference  # noqa: E402
from experiments.cost.rows import Row, Scale  # noqa: E402
from hamu_jax import rules  # noqa: E402

RULES = {"hamu": None, "gdiff": rules.gdiff()}
STEPS = 3  # after which memory grows no more
WITH_CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def measure(scale: Scale, reference: Reference | None) -> list[Row]:
    """With an empty cache, and again with what the first process left there."""
    del reference
    rows: list[Row] = []
    title = _title(scale)
    with tempfile.TemporaryDirectory() as cache:
        for case in ("nothing compiled yet", "compiled by a process before"):
            measured = _in_subprocess("hamu", scale, {"JAX_COMPILATION_CACHE_DIR": cache, **WITH_CACHE})
            rows.append({"case": f"{title}, {case}", **{key: measured[key] for key in ("seconds", "compiled", "from_cache")}})
    rows[0]["ratio"] = 1.0
    rows[1] |= {"ratio": rows[1]["seconds"] / rows[0]["seconds"], "target": "nothing compiled", "met": rows[1]["compiled"] == 0}
    return rows


def step_memory(scale: Scale, reference: Reference | None) -> list[Row]:
    """HAMU beside gradient difference, and PyTorch."""
    rows: list[Row] = []
    for rule in RULES:
        measured = _in_subprocess(rule, scale, {})
        rows.append({"case": f"{_title(scale)}: {rule}", "peak_mb": measured["peak"] / 1e6})
    if reference is not None:
        clone = reference.again()
        with clone:
            benchmarked_models.resnet20(clone, images=scale.images)
            for _ in range(STEPS):
                clone.ask("timed", what="step")
            rows.append(
                {"case": f"ResNet-20, {scale.images} images: {against_pytorch.PAPER}", "peak_mb": clone.ask("peak") / 1e6}
            )
    return [{**row, "ratio": rows[0]["peak_mb"] / row["peak_mb"]} for row in rows]


def _title(scale: Scale) -> str:
    """What steps are made on."""
    return "a tiny language model" if scale.tiny else f"ResNet-20, {scale.images} images"


def _in_subprocess(rule: str, scale: Scale, variables: dict[str, str]) -> dict[str, Any]:
    """Runs this file as a program."""
    images = 0 if scale.tiny else scale.images
    command = [sys.executable, "-m", "experiments.cost.first_step", rule, str(images)]
    environment = {**os.environ, **variables}
    return json.loads(subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(rule: str, images: int) -> dict[str, float]:
    """The program."""
    events: collections.Counter[str] = collections.Counter()
    jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rsplit("/", maxsplit=1)[-1]]))
    tiny = functools.partial(benchmarked_models.language_model, None, config=benchmarked_models.TINY, sequences=(2, 8))
    model = benchmarked_models.resnet20(None, images=images) if images else tiny()
    step = against_pytorch.stepper(model, RULES[rule])
    jax.block_until_ready(step())
    seconds = time.perf_counter() - BEGUN
    for _ in range(STEPS):
        jax.block_until_ready(step())
    return {
        "seconds": seconds,
        "compiled": events["cache_misses"],
        "from_cache": events["cache_hits"],
        "peak": memory("VmHWM"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]))) + "\n")
