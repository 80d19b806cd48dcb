"""The report of a run on images."""

from pathlib import Path
from typing import Any

import hamu_jax
from experiments.runs.provenance import conclusion, settings_record
from experiments.runs.run_store import all_models
from experiments.vision import runs
from experiments.vision.config import Unlearning
from experiments.vision.task import take
from hamu_jax import report

SHOWN = ("retain/accuracy", "forget/accuracy", "test retain/accuracy", "test forget/accuracy", "test membership")
WATCHED = {"like the retain set": "validation retain/accuracy", "like the forget set": "validation forget/accuracy"}


def write_report(settings: Unlearning, mesh: Any = None) -> Path:
    """Writes a report of a run, which is made if it is missing; returns the path of the text."""
    result, record = runs.unlearn_images(settings, mesh)
    problem, method = settings.problem, settings.method
    scenario = runs.load_scenario(settings)
    batches = (take(examples, slice(method.batch_size)) for examples in (scenario.retain, scenario.subject.forget))
    _, grads = hamu_jax.paired_value_and_grad(scenario.subject.loss)(scenario.subject.params, *batches)
    numbers = all_models(record)
    return report.write(
        runs.directory(settings) / "report",
        result,
        title=f"{problem.dataset}: {method.method}, class {problem.forget_class}, rho {problem.rho:g}",
        models={name: {column: values[column] for column in SHOWN} for name, values in numbers.items()},
        conclusion=conclusion(result, numbers),
        settings=settings_record("vision", settings),
        watched=WATCHED,
        reference={label: numbers["retrained"][column] for label, column in WATCHED.items()},
        curve=hamu_jax.trade_off(grads.retain, grads.forget, blocks="global"),
        learning_rate=method.learning_rate,
    )
