"""Unlearning on handwritten digits: assess, owners, and `sweep NAME`, which compares methods; `--help` lists the options.

The quickstart is `python -m experiments.quickstart`.
"""

from experiments.comparison.config import WITHOUT_AXIS
from experiments.digits.config import AXES, Assessment, Owners, Sweep
from experiments.runs.command import Command, main

HERE = "experiments.digits"
ASSESS = "Measures, before anything is changed, how hard each layer and each image of one digit is to forget."
OWNERS = "Twenty people ask at once that their digits be forgotten: a promise to their average, or one to each of them."
SWEEP = "Makes a sweep, or compares all methods (`baselines`)."
COMMANDS = {
    "assess": Command(Assessment, f"{HERE}.assess:assess_digits", ASSESS, cache=False),
    "owners": Command(Owners, f"{HERE}.owners:compare_promises", OWNERS, cache=False),
    "sweep": Command(Sweep, f"{HERE}.comparison:sweep_digits", SWEEP, names=(*AXES, *WITHOUT_AXIS)),
}

if __name__ == "__main__":
    main("digits", __doc__, COMMANDS)
