"""One table of several trained models, each of which `sweep baselines` compared on its own, perhaps on another machine."""

from experiments.comparison.config import Pool
from experiments.runs.command import Command, main

if __name__ == "__main__":
    command = Command(Pool, "experiments.comparison.pooling:pool_models", "", cache=False)
    main("comparison.pool_models", __doc__, {"": command})
