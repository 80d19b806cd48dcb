"""Unlearn one class of real handwritten digits, and write a report.

Trains a small convolutional network on scikit-learn's digits, trains it again without one class, makes the first one forget
that class with HAMU-Q, and compares the three. All settings were chosen on the validation split.
"""

import tyro

from experiments.digits.config import Quickstart
from experiments.runs import command

if __name__ == "__main__":
    chosen = tyro.cli(Quickstart, prog="python -m experiments.quickstart", description=__doc__)
    command.run("experiments.digits.quickstart:run_quickstart", chosen)
