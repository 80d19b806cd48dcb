"""Unlearn one class of real handwritten digits, and write a report.

Trains a small convolutional network on scikit-learn's digits, trains it again without one class, makes the first one forget
that class with `hamu_jax.forget`, and compares the three.
"""

from experiments.digits.config import Quickstart
from experiments.runs.command import Command, main

if __name__ == "__main__":
    command = Command(Quickstart, "experiments.digits.quickstart:run_quickstart", "", cache=False)
    main("quickstart", __doc__, {"": command})
