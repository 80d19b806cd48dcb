"""What the commands do; each returns what it has to say."""

import hamu_jax
from experiments.runs import run_store
from experiments.runs.provenance import conclusion, settings
from experiments.vision import models, runs, task
from experiments.vision.config import Problem, Unlearning
from hamu_jax import report as reports

SHOWN = ("retain/accuracy", "forget/accuracy", "test retain/accuracy", "test forget/accuracy", "test membership")


def train(config: Problem, kind: str) -> str:
    """Trains the `full` or the `retrained` model, unless it is there."""
    made = task.build(config)
    model = models.ensure(config, made, kind)
    return (
        run_store.table({kind: models.measure(made, model, made.parts)})
        + f"\nThe model is in {models.directory(config, kind)}/\n"
    )


def unlearn(config: Unlearning) -> str:
    """Makes a run, unless it is there."""
    config, mesh = config.placed()
    result, record = runs.unlearn(config, mesh)
    return run_store.log_and_tell(config, runs.directory(config), result, record)


def evaluate(config: Unlearning) -> str:
    """All that is measured of the three models, of a run that is there or is made."""
    record = runs.ensure(config)
    return run_store.table(run_store.all_models(record), tuple(record["measured"]))


def report(config: Unlearning) -> str:
    """Writes a report of a run, which is made unless it is there."""
    result, record = runs.unlearn(config)
    place, here = runs.directory(config), runs.case(runs.problem(config), config.groups)
    _, grads = hamu_jax.paired_value_and_grad(here.subject.loss)(
        here.subject.params, *(task.take(part, slice(config.batch_size)) for part in (here.retain, here.subject.forget))
    )
    numbers = run_store.all_models(record)
    watched = {"like what is kept": "validation retain/accuracy", "like what is forgotten": "validation forget/accuracy"}
    written = reports.write(
        place / "report",
        result,
        title=f"{config.dataset}: {config.method}, class {config.forget_class}, rho {config.rho:g}",
        models={name: {column: values[column] for column in SHOWN} for name, values in numbers.items()},
        conclusion=conclusion(result, numbers),
        settings=settings("vision", config),
        watched=watched,
        reference={label: numbers["retrained"][column] for label, column in watched.items()},
        curve=hamu_jax.trade_off(grads.retain, grads.forget, blocks="global"),
        learning_rate=config.learning_rate,
    )
    return written.read_text(encoding="utf-8") + f"\nThe report with its pictures is in {written.parent}/\n"
