"""The comparison's runs: which settings there are, one run of one of them, and the file that it leaves behind."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.digits import task
from experiments import methods
from experiments.data import digits
from experiments.models.mlp import MLP
from experiments.runs.unlearning import Case, Record, measure
from experiments.runs.unlearning import run as unlearn
from hamu_jax import report


@dataclasses.dataclass(frozen=True)
class Config:
    """The comparison's settings. Every method gets the same data, batches, steps, clipping, and number of settings.

    Attributes:
      dataset: what is compared on.
      out: where the runs and the results go.
      methods: names in `experiments.methods.METHODS`.
      seeds: each of them is the seed of a split, of initial weights, of training and of unlearning.
      learning_rates: of methods without a required improvement.
      promise_learning_rates: of methods with one; each with each of `improvements`.
      improvements: required improvements, cosines between a step and the forget gradient (HAMU-U: the retain gradient).
      forget_class: the digit to forget.
      epochs: of training.
      steps: of unlearning, the same for all.
      batch_size: of unlearning, from either set.
      clip_norm: to which both gradients are clipped.
      evaluations: how often a run is evaluated on its way, for the Pareto picture.
      groups: how many requests the forget set is divided into, for methods with a promise to each.
      smoke: a reduced scale, to see that it works.
      timing: measure the time of a step instead of running the comparison; on a quiet machine.
    """

    dataset: str = "digits"
    out: Path = Path("compare-out")
    methods: tuple[str, ...] = tuple(methods.METHODS)
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rates: tuple[float, ...] = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0)
    promise_learning_rates: tuple[float, ...] = (0.01, 0.05, 0.2)
    improvements: tuple[float, ...] = (0.1, 0.3, 0.5)
    forget_class: int = 3
    epochs: int = 25
    steps: int = 100
    batch_size: int = 128
    clip_norm: float = 1.0
    evaluations: int = 5
    groups: int = 10
    smoke: bool = False
    timing: bool = False


SMOKE: dict[str, Any] = {
    "methods": ("gdiff", "hamu-q"),
    "seeds": (0,),
    "learning_rates": (0.02, 0.2),
    "promise_learning_rates": (0.1,),
    "improvements": (0.1, 0.3),
    "epochs": 2,
    "steps": 4,
    "evaluations": 2,
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One column of the grid: a method with its hyper-parameters."""

    method: str
    learning_rate: float
    improvement: float

    def file(self, seed: int) -> str:
        """The name of the file that a run leaves."""
        return f"{self.method}-lr{self.learning_rate:g}-q{self.improvement:g}-seed{seed}.json"


def grid(config: Config) -> list[Setting]:
    """All settings of all methods."""
    settings = []
    for name in config.methods:
        promises = methods.METHODS[name].promises
        rates = config.promise_learning_rates if promises else config.learning_rates
        settings += [Setting(name, rate, q) for rate in rates for q in (config.improvements if promises else (0.0,))]
    return settings


def case(config: Config, seed: int) -> Case:
    """Trains the full and the retrained model of one seed, and measures them."""
    task = task.build(config.forget_class, seed, MLP)
    full = task.train(task.split.train, config.epochs, "full")
    retrained = task.train(task.parts["train"][0], config.epochs, "retrained")
    splits = {
        name: methods.prepare(task.loss, full, part, classes=10, groups=config.groups, seed=seed)
        for name, part in _named(task.parts).items()
    }
    retain, forget = (dict(splits[name]) for name in ("retain", "forget"))
    groups = methods.requests(config.groups)
    for part in splits.values():
        part["retrained"] = methods.logits(task.loss.apply, retrained, part)
    models = {name: measure(task.loss, params, splits) for name, params in (("full", full), ("retrained", retrained))}
    return Case(methods.Subject(task.loss, full, forget, groups), retain, splits, models)


def _named(parts: task.Parts) -> dict[str, digits.Examples]:
    """The training parts as `retain` and `forget`, the others by their names."""
    return {
        kind if name == "train" else f"{name} {kind}": part
        for name, both in parts.items()
        for kind, part in zip(("retain", "forget"), both, strict=True)
    }


def build(config: Config, setting: Setting, subject: methods.Subject) -> methods.Built:
    """The method of a setting."""
    return methods.build(
        methods.METHODS[setting.method],
        subject,
        learning_rate=setting.learning_rate,
        improvement=setting.improvement,
        clip_norm=config.clip_norm,
    )


def run(config: Config, setting: Setting, case: Case, seed: int) -> Record:
    """One run: what it ended with, and the accuracies on its way."""
    built = build(config, setting, case.subject)
    options = {"batch_size": config.batch_size, "seed": seed, "progress": False}
    return unlearn(case, built, steps=config.steps, evaluations=config.evaluations, **options)[1]


def run_all(config: Config) -> Iterator[tuple[int, Record, dict[Setting, Record]]]:
    """For each seed: the seed, what the full and the retrained model measure, and every setting's run."""
    for seed in config.seeds:
        here = case(config, seed)
        yield seed, here.models, {setting: _resumed(config, setting, here, seed) for setting in grid(config)}


def _resumed(config: Config, setting: Setting, case: Case, seed: int) -> Record:
    """A run, or what it left behind when it was made before with the same configuration."""
    shared = ("dataset", "forget_class", "epochs", "steps", "batch_size", "clip_norm", "evaluations", "groups")
    made = {name: getattr(config, name) for name in shared} | dataclasses.asdict(setting) | {"seed": seed}
    path = config.out / "runs" / setting.file(seed)
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["made"] == made:
            return record
    record = {"made": made, **run(config, setting, case, seed)}
    report.write_whole(path, json.dumps(record) + "\n")
    return record
