"""The task that the experiments on digits share: a small network, and one class that is to be forgotten."""

import dataclasses
from typing import Any

from flax import nnx

from experiments.data import digits
from experiments.models.cnn import CNN
from experiments.runs.training import train
from hamu_jax import metrics, objectives

Parts = dict[str, tuple[digits.Examples, digits.Examples]]


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, model and loss.

    Attributes:
      split: train, validation and test examples of all classes.
      parts: for each of these three its `(retain, forget)` examples.
      start: the untrained parameters.
      loss: cross-entropy of the model.
      metrics: accuracy, and the probability given to the true label, one number per example.
      seed: the seed of the split, the initial weights and the order of examples.
    """

    split: digits.Split
    parts: Parts
    start: Any
    loss: objectives.CrossEntropy
    metrics: dict[str, Any]
    seed: int

    def train(self, examples: digits.Examples, epochs: int, name: str) -> Any:
        """A model trained from scratch on `examples`."""
        return train(
            self.loss,
            self.start,
            examples,
            steps=epochs * len(examples["label"]) // 64,
            batch_size=64,
            learning_rate=4e-3,
            seed=self.seed,
            name=name,
        )

    def named_splits(self, *names: str) -> dict[str, digits.Examples]:
        """The retain and the forget examples of some splits, as `test retain` and so on."""
        return {
            f"{name} {kind}": part for name in names for kind, part in zip(("retain", "forget"), self.parts[name], strict=True)
        }


def build_task(forget_class: int, seed: int, model: Any = CNN) -> Task:
    """The task of forgetting one digit, with a network of the class `model`."""
    split = digits.load(seed)
    parts = {name: digits.by_class(examples, forget_class) for name, examples in split._asdict().items()}
    graph, start = nnx.split(model(classes=10, rngs=nnx.Rngs(seed)))

    def logits(params: Any, batch: Any) -> Any:
        return nnx.merge(graph, params)(batch["image"])

    per_example = {"accuracy": metrics.accuracy(logits), "probability": metrics.probability(logits)}
    return Task(split, parts, start, objectives.cross_entropy(logits), per_example, seed)
