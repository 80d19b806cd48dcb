"""What the commands on language models do; each returns the text that it prints."""

import dataclasses
from typing import Any

from experiments.language import models, runs
from experiments.language.config import Method, ModelSettings, Unlearning
from experiments.language.task import build_task
from experiments.runs.config import flat
from experiments.runs.run_store import log_run, models_table


def train(settings: ModelSettings, kind: str, mesh: Any = None) -> str:
    """Fine-tunes the `full` or the `retrained` model, if it is missing."""
    task = build_task(settings, mesh)
    models.train_if_missing(task, kind)
    table = models_table({kind: models.validation(task, kind)}) + _unread(settings)
    return table + f"\nThe model is in {models.model_directory(task, kind)}/, its adapter in PEFT's format\n"


def unlearn(settings: Unlearning, mesh: Any = None) -> str:
    """Makes a run, if it is missing."""
    result, record = runs.unlearn_questions(settings, mesh)
    text = log_run(settings, runs.directory(settings), result, record)
    runs.check_finite(record, runs.directory(settings))
    return text


def evaluate(settings: Unlearning, mesh: Any = None) -> str:
    """All numbers of the three models of a run, which is made if it is missing."""
    return models_table(runs.all_measured(settings, mesh)) + f"\nThe run is in {runs.directory(settings)}/\n"


def _unread(settings: ModelSettings) -> str:
    """A sentence about the options of other commands, which training takes but does not read."""
    if not isinstance(settings, Unlearning):
        return ""
    names = [
        *dataclasses.fields(Method),
        *(field for field in dataclasses.fields(Unlearning) if field.name in ("assessed", "samples")),
    ]
    values, defaults = flat(settings), flat(Unlearning())
    changed = [field.name for field in names if values[field.name] != defaults[field.name]]
    flags = ", ".join("--" + name.replace("_", "-") for name in changed)
    return f"\nTraining does not read {flags}; its own options begin with --training\n" if changed else ""
