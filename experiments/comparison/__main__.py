"""The paper's sweeps on images, and all baselines.

    python -m experiments.sweep NAME [options of experiments.vision unlearn] [--seeds 0 1] [--smoke]

NAME is rho, constraint, batch-size, full-gradient, optimizer, stopping, unavoidable, baselines or timing. Runs and models that
are there are not made again; a sweep that was killed goes on. One table and one figure are written to a directory in OUT.
`python -m experiments.language sweep NAME` does the same on language models.
"""

import sys
from typing import Annotated

import tyro

from experiments.vision.comparison import IMAGES, Sweep
from experiments.comparison.sweep import main


def run(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=", ".join(IMAGES.names))],
    config: Annotated[Sweep, tyro.conf.arg(name="")],
) -> None:
    """Runs a sweep of the paper's experiments on images."""
    written = main(name, config, "sweep")
    sys.stdout.write(written.read_text(encoding="utf-8") + f"\nThe results are in {written.parent}/\n")


if __name__ == "__main__":
    tyro.cli(run, prog="python -m experiments.sweep")
