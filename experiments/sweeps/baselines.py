"""All methods on equal terms: the same data, batches and steps, and each its best setting on validation images."""

from typing import Any

from experiments import compare, compare_table
from experiments.compare_runs import Config, Setting, grid
from experiments.sweeps.axis import with_models
from experiments.sweeps.config import Sweep, chosen_methods, run_settings, trained_with
from experiments.vision import runs
from experiments.vision.config import Training


def run(config: Sweep) -> compare_table.Results:
    """Makes all runs that are not there; a seed of the results is a pair, of training and of unlearning."""
    pairs: Any = {(training.seed, seed): training for training in trained_with(config) for seed in config.seeds}
    shared = Config(
        methods=chosen_methods("baselines", config),
        seeds=tuple(pairs),
        learning_rates=config.learning_rates[:1] if config.smoke else config.learning_rates,
        promise_learning_rates=config.promise_learning_rates[:1] if config.smoke else config.promise_learning_rates,
        improvements=config.improvements[:1] if config.smoke else config.improvements,
    )
    whole = tuple(key for key in pairs if key[1] in (config.grid_seeds or config.seeds))
    results = compare_table.Results(shared, {}, {key: {} for key in pairs}, whole)
    for key in whole:
        _add(config, results, key, pairs[key], grid(shared))
    chosen = [compare_table.choose(results, method) for method in shared.methods]
    for key in pairs:
        if key not in whole:
            _add(config, results, key, pairs[key], chosen)
    return results


def _add(config: Sweep, results: compare_table.Results, key: Any, training: Training, settings: list[Setting]) -> None:
    """Runs of one pair of seeds."""
    for setting in settings:
        hyper = {"learning_rate": setting.learning_rate, "improvement": setting.improvement}
        one = run_settings(config, method=setting.method, seed=key[1], training=training, **hyper)
        with_models(one)
        results.runs[key][setting] = runs.ensure(one)
        results.models[key] = results.runs[key][setting]["models"]


def chosen_by(config: Sweep) -> str:
    """How settings were chosen."""
    if not config.grid_seeds:
        return compare.CHOSEN.format(seeds="all seeds")
    grid_seeds = f"the runs with unlearning seed {', '.join(map(str, config.grid_seeds))}"
    rest = "The other seeds ran what was chosen, and the hypervolume is of the whole grid only."
    return f"{compare.CHOSEN.format(seeds=grid_seeds)} {rest}"


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
