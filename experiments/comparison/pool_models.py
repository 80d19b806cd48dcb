"""One table of several trained models, each of which `sweep baselines` compared on its own, perhaps on another machine."""

import tyro

from experiments.comparison.config import Pool
from experiments.runs import command

if __name__ == "__main__":
    chosen = tyro.cli(Pool, prog="python -m experiments.comparison.pool_models", description=__doc__)
    command.run("experiments.comparison.pooling:pool_models", chosen)
