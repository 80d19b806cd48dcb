"""What the commands do; each returns what it has to say."""

from experiments.runs import run_store
from experiments.language import models, report, runs, task
from experiments.language.config import Problem, Unlearning


def train(config: Problem, kind: str) -> str:
    """Fine-tunes the `full` or the `retrained` model, unless it is there."""
    config, mesh = config.placed()
    made = task.build(run_store.part(config, Problem), mesh)
    models.ensure(made, kind)
    table = run_store.table({kind: models.validation(made, kind)})
    return table + f"\nThe model is in {models.directory(made, kind)}/, its adapter in PEFT's format\n"


def unlearn(config: Unlearning) -> str:
    """Makes a run, unless it is there."""
    config, mesh = config.placed()
    result, record = runs.unlearn(config, mesh)
    return run_store.log_and_tell(config, runs.directory(config), result, record)


def evaluate(config: Unlearning) -> str:
    """All that is measured of the three models, of a run that is there or is made."""
    config, mesh = config.placed()
    rows = runs.measured(config, mesh)
    return run_store.table(rows) + f"\nThe run is in {runs.directory(config)}/\n"


def report(config: Unlearning) -> str:
    """Writes a report of a run, which is made unless it is there."""
    config, mesh = config.placed()
    written = report.write(config, mesh)
    return written.read_text(encoding="utf-8") + f"\nThe report with its pictures is in {written.parent}/\n"
