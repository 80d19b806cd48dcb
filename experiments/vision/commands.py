"""What the commands on images do; each returns the text that it prints."""

from typing import Any

from experiments.runs.run_store import all_models, log_run, models_table
from experiments.vision import models, runs
from experiments.vision.config import ModelSettings, Unlearning
from experiments.vision.task import build_task


def train(settings: ModelSettings, kind: str, mesh: Any = None) -> str:
    """Trains the `full` or the `retrained` model, if it is missing."""
    del mesh  # training runs on one device
    task = build_task(settings.problem, settings.files)
    model = models.train_or_load(settings, task, kind)
    numbers = models.measure(task, model, task.splits)
    return models_table({kind: numbers}) + f"\nThe model is in {models.model_directory(settings, kind)}/\n"


def unlearn(settings: Unlearning, mesh: Any = None) -> str:
    """Makes a run, if it is missing."""
    result, record = runs.unlearn_images(settings, mesh)
    return log_run(settings, runs.directory(settings), result, record)


def evaluate(settings: Unlearning, mesh: Any = None) -> str:
    """All numbers of the three models of a run, which is made if it is missing."""
    record = runs.run_record(settings, mesh)
    return models_table(all_models(record), tuple(record["measured"]))
