"""Sweeps and the comparison of all methods on digits."""

import functools
import math
from pathlib import Path
from typing import Any

from experiments import methods
from experiments.comparison.modality import Modality
from experiments.comparison.sweep import run_sweep
from experiments.data import digits
from experiments.digits.config import AXES, Problem, Sweep
from experiments.digits.task import build_task
from experiments.models.mlp import MLP
from experiments.runs.run_store import read_run, run_and_store, run_directory
from experiments.runs.unlearning import Record, Scenario, measure

EXPLAINED = (
    "Mean ± standard deviation over {seeds} seed(s); a seed is that of the split, of the initial weights, of training and of "
    'unlearning. Accuracies without "test" are of training images. Test accuracy and test loss are of the classes of the '
    "retain set. The membership AUC is the probability that a test image of the forgotten class has a larger loss than a "
    "training image of it: 0.5 is indistinguishable, below 0.5 the training images stick out. The gap is the mean distance to "
    "the retrained model's accuracy on the retain and the forget set, training and test. KL and agreement are with the "
    "retrained model. The hypervolume is the area that a method's settings and evaluations during unlearning dominate in the "
    "plane of both test accuracies (at most 1)."
)


def sweep_digits(settings: Sweep, name: str, mesh: Any = None) -> Path:
    """Makes a sweep; returns the path of the text."""
    return run_sweep(DIGITS, name, settings, mesh)


def run_record(settings: Sweep, mesh: Any = None) -> Record:
    """A run's record; the run is made if it is missing."""
    directory = run_directory(settings, f"digit{settings.problem.digit}")
    return read_run(directory) or run_and_store(settings, directory, load_scenario(settings), mesh=mesh)[1]


def load_scenario(settings: Sweep, mesh: Any = None) -> Scenario:
    """Data and models, which are trained in seconds and not stored; the last scenario is kept."""
    del mesh  # training runs on one device
    return _scenario(settings.problem, settings.method.groups)


@functools.lru_cache(maxsize=1)
def _scenario(problem: Problem, groups: int) -> Scenario:
    """Trains the full and the retrained model, and measures them."""
    seed, epochs = problem.training.seed, problem.training.epochs
    task = build_task(problem.digit, seed, MLP)
    full = task.train(task.split.train, epochs, "full")
    retrained = task.train(task.parts["train"][0], epochs, "retrained")
    splits = {
        name.removeprefix("train "): methods.prepare(task.loss, full, examples, classes=10, groups=groups, seed=seed)
        for name, examples in task.named_splits("train", "validation", "test").items()
    }
    retain, forget = (dict(splits[name]) for name in ("retain", "forget"))
    for examples in splits.values():
        examples["retrained"] = methods.logits(task.loss.apply, retrained, examples)
    models = {name: measure(task.loss, params, splits) for name, params in (("full", full), ("retrained", retrained))}
    subject = methods.Subject(task.loss, full, forget, methods.requests(groups))
    return Scenario(subject, retain, splits, models)


DIGITS = Modality(
    program="digits",
    axes=AXES,
    label=lambda problem: "every digit" if problem.forget_class is None else f"digit {problem.forget_class}",
    record=run_record,
    scenario=load_scenario,
    explained=EXPLAINED,
    level=lambda settings, mesh: math.log(digits.CLASSES),  # noqa: ARG005
    model_per_seed=True,
)
