"""Lists the commands of the experiments: `python -m experiments`."""

import sys

COMMANDS = {
    "quickstart": "forgets one class of handwritten digits, and writes a report (under a minute)",
    "digits": "assess, owners, sweep: what forgetting costs, many owners at once, and all methods on handwritten digits",
    "vision": "train, retrain, unlearn, evaluate, report, sweep: the paper's experiments on images",
    "language": "get-smollm2, finetune, retrain, unlearn, evaluate, report, sweep: the same on language models",
    "comparison.pool_models": "one table of several trained models, each of which was swept on its own",
    "cost": "benchmark, memory, communication: what the library costs",
}

if __name__ == "__main__":
    lines = [f"  python -m experiments.{name:<22} {words}" for name, words in COMMANDS.items()]
    sys.stdout.write("\n".join(["The commands of the experiments; --help after each lists its options:", "", *lines, ""]))
