"""All methods on equal terms: the same data, batches and steps, and each its best setting on validation images."""

from typing import Any

from experiments import compare_table
from experiments.compare_runs import Config, Setting, grid
from experiments.sweeps.axis import with_models
from experiments.sweeps.config import Sweep, chosen_methods, run_settings, trained_with
from experiments.unlearning import Record
from experiments.vision import runs


def run(config: Sweep) -> compare_table.Results:
    """Makes all runs that are not there; a seed of the results is a pair, of training and of unlearning."""
    pairs = [(training, seed) for training in trained_with(config) for seed in config.seeds]
    keys: Any = tuple((training.seed, seed) for training, seed in pairs)
    shared = Config(
        methods=chosen_methods("baselines", config),
        seeds=keys,
        learning_rates=config.learning_rates[:1] if config.smoke else config.learning_rates,
        promise_learning_rates=config.promise_learning_rates[:1] if config.smoke else config.promise_learning_rates,
        improvements=config.improvements[:1] if config.smoke else config.improvements,
    )
    found: dict[Any, dict[Setting, Record]] = {key: {} for key in keys}
    models: dict[Any, Any] = {}
    for (training, seed), key in zip(pairs, keys, strict=True):
        for setting in grid(shared):
            hyper = {"learning_rate": setting.learning_rate, "improvement": setting.improvement}
            one = run_settings(config, method=setting.method, seed=seed, training=training, **hyper)
            with_models(one)
            found[key][setting] = runs.ensure(one)
            models[key] = found[key][setting]["models"]
    return compare_table.Results(shared, models, found)


def markdown(rows: dict[str, Any]) -> str:
    """The tables."""
    return "\n\n".join(
        [
            compare_table.table(rows, compare_table.COLUMNS),
            "## Losses, and how close to the retrained model",
            compare_table.table(rows, compare_table.DETAILS),
            "## Chosen settings",
            compare_table.chosen_table(rows),
        ]
    )
