"""All methods on equal terms: the same data, batches and steps, and each its best setting on validation data."""

import json
from pathlib import Path
from typing import Any

from experiments.comparison import summary
from experiments import methods
from experiments.comparison.grid import Config, Setting, grid
from experiments.comparison.config import Varied, chosen_methods, run_settings, trained_with
from experiments.comparison.progress import told


def run(config: Varied) -> summary.Results:
    """Makes all runs that are not there; a seed of the results is a pair, of training and of unlearning.

    Raises:
      ValueError: for a file `chosen` that has no setting of a method.
    """
    pairs: Any = {(training.seed, seed): training for training in trained_with(config) for seed in config.seeds}
    shared = Config(
        methods=chosen_methods("baselines", config),
        seeds=tuple(pairs),
        learning_rates=config.learning_rates[:1] if config.smoke else config.learning_rates,
        promise_learning_rates=config.promise_learning_rates[:1] if config.smoke else config.promise_learning_rates,
        improvements=config.improvements[:1] if config.smoke else config.improvements,
    )
    settings = grid(shared) if config.chosen is None else _held(config.chosen, shared.methods)
    whole = tuple(key for key in pairs if key[1] in (config.grid_seeds or config.seeds))
    results = summary.Results(
        shared, {}, {key: {} for key in pairs}, whole, config.kind.judge, searched=config.chosen is None
    )
    for key in whole:
        _add(config, results, key, pairs[key], settings)
    chosen = [summary.choose(results, method) for method in shared.methods]
    for key in pairs:
        if key not in whole:
            _add(config, results, key, pairs[key], chosen)
    _measure(config, results, pairs, chosen)
    return results


def chosen_by(config: Varied) -> str:
    """How settings were chosen."""
    if config.chosen is not None:
        words = config.kind.chosen.format(seeds="the runs there")
        return f"Settings are those that {config.chosen} chose, on another trained model or with other seeds: {words}"
    if not config.grid_seeds:
        return config.kind.chosen.format(seeds="all seeds")
    grid_seeds = f"the runs with unlearning seed {', '.join(map(str, config.grid_seeds))}"
    rest = "The other seeds ran what was chosen, and the hypervolume is of the whole grid only."
    return f"{config.kind.chosen.format(seeds=grid_seeds)} {rest}"


def markdown(config: Varied, rows: dict[str, Any]) -> str:
    """The tables."""
    return "\n\n".join(
        [
            summary.table(rows, config.kind.columns),
            "## Losses, and how close to the retrained model",
            summary.table(rows, config.kind.details),
            "## Chosen settings",
            summary.chosen_table(rows),
        ]
    )


def _one(config: Varied, setting: Setting, key: Any, training: Any) -> Any:
    """The settings of one run."""
    hyper = {"learning_rate": setting.learning_rate, "improvement": setting.improvement}
    return run_settings(config, method=setting.method, seed=key[1], training=training, **hyper)


def _add(config: Varied, results: summary.Results, key: Any, training: Any, settings: list[Setting]) -> None:
    """Runs of one pair of seeds."""
    for setting in told(settings, lambda setting: _words(setting, key)):
        results.runs[key][setting] = config.kind.ensure(_one(config, setting, key, training))
        results.models[key] = results.runs[key][setting]["models"]


def _measure(config: Varied, results: summary.Results, pairs: Any, chosen: list[Setting]) -> None:
    """All that a table shows of the chosen runs."""
    measured = [(key, setting) for key in pairs for setting in chosen]
    for key, setting in told(measured, lambda one: f"measuring {_words(one[1], one[0])}"):
        found = config.kind.everything(_one(config, setting, key, pairs[key]))
        results.runs[key][setting] = {**results.runs[key][setting], "measured": found["unlearned"]}
        results.models[key] = {name: found[name] for name in summary.MODELS}


def _words(setting: Setting, key: Any) -> str:
    """A run in a line."""
    promise = f", improvement {setting.improvement:g}" if methods.METHODS[setting.method].promises else ""
    return f"{setting.method}, learning rate {setting.learning_rate:g}{promise}, seeds {key[0]} and {key[1]}"


def _held(path: Path, names: tuple[str, ...]) -> list[Setting]:
    """The settings that a file says were chosen."""
    if not path.exists():
        raise ValueError(f"chosen: got {path}, which is not there, expected a file that baselines left")
    rows = json.loads(path.read_text(encoding="utf-8")).get("methods", {})
    for name in names:
        if "setting" not in rows.get(name, {}):
            raise ValueError(f"chosen: got {path}, which has no setting of {name}, expected one of every method")
    return [Setting(**rows[name]["setting"]) for name in names]
