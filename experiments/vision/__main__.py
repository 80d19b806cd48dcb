"""Unlearning on images, a command per stage: train, retrain, unlearn, evaluate, report; `sweep NAME` makes many runs.

Models and runs are stored in `--out`: what is complete is not made again, and what was interrupted resumes. A sweep writes one
table and one figure. `--help` after a command lists its options.
"""

from experiments.comparison.config import WITHOUT_AXIS
from experiments.runs.command import Command, main
from experiments.vision.config import AXES, ModelSettings, Sweep, Unlearning

HERE = "experiments.vision"
RETRAIN = "Trains a model from scratch on the retain set: what forgetting is compared with."
SWEEP = "Makes one of the paper's sweeps, or compares all baselines."
COMMANDS = {
    "train": Command(ModelSettings, f"{HERE}.commands:train", "Trains the full model, on all training images.", ("full",)),
    "retrain": Command(ModelSettings, f"{HERE}.commands:train", RETRAIN, ("retrained",)),
    "unlearn": Command(Unlearning, f"{HERE}.commands:unlearn", "Makes the full model forget."),
    "evaluate": Command(Unlearning, f"{HERE}.commands:evaluate", "Evaluates the full, the retrained and the unlearned model."),
    "report": Command(Unlearning, f"{HERE}.report:write_report", "Writes a report of an unlearning run."),
    "sweep": Command(Sweep, f"{HERE}.comparison:sweep_images", SWEEP, names=(*AXES, *WITHOUT_AXIS)),
}

if __name__ == "__main__":
    main("vision", __doc__, COMMANDS)
