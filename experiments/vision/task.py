"""The images in their splits, the network, and its loss."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.data import images, splits
from experiments.data.digits import Examples
from experiments.data.preprocess import augment, normalise
from experiments.models.resnet import ResNet
from experiments.vision.config import Files, Problem, Training
from hamu_jax import objectives

SIZES: dict[str, dict[str, int]] = {"resnet20": {}, "wide-resnet": {"widen": 4}, "resnet8": {"blocks": 1}}


@dataclasses.dataclass(frozen=True)
class Task:
    """Images and network.

    Attributes:
      dataset: its name.
      train: all training images, `image` uint8 and `label`; batches are normalised on the device.
      validation: the images that are held out.
      split: the rows of `train` to forget and to retain.
      splits: what is evaluated: `retain` and `forget`, and `validation` and `test` images (never trained on) whose classes
        are in the proportions of either: `validation retain`, `test forget` and so on.
      graph: the network's nnx graph.
      start: its initial parameters and batch statistics.
    """

    dataset: str
    train: Examples
    validation: Examples
    split: splits.Split
    splits: dict[str, Examples]
    graph: Any
    start: tuple[Any, Any]

    def trained_on(self, kind: str) -> Examples:
        """The training images of the `full` or the `retrained` model."""
        return self.train if kind == "full" else take(self.train, self.split.retain)

    def logits(self, params: Any, statistics: Any, batch: Any) -> jax.Array:
        """`[n, classes]`, with frozen batch statistics."""
        return nnx.merge(self.graph, params, statistics, copy=True)(normalise(batch["image"], self.dataset))

    def loss(self, statistics: Any) -> objectives.CrossEntropy:
        """Cross-entropy as a function of parameters, with frozen batch statistics."""
        return objectives.cross_entropy(lambda params, batch: self.logits(params, statistics, batch))

    @functools.cached_property
    def model_loss(self) -> objectives.CrossEntropy:
        """The same as a function of parameters and statistics together: one program for every model."""
        return objectives.cross_entropy(lambda model, batch: self.logits(*model, batch))

    def training_loss(self, training: Training) -> Any:
        """`loss(params, statistics, batch, key) -> (mean, statistics)`, with batch normalisation by the batch."""

        def loss(params: Any, statistics: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            model = nnx.merge(self.graph, params, statistics, copy=True)
            image = augment(key, batch["image"], flip=self.dataset in FLIPPED) if training.augment else batch["image"]
            logits = model(normalise(image, self.dataset), train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), nnx.split(model, nnx.Param, ...)[2]

        return loss


FLIPPED = ("cifar10", "cifar100", "fashion_mnist")  # whose mirrored images are images of the same class


def build_task(problem: Problem, files: Files) -> Task:
    """Reads the images and makes the network.

    Raises:
      ValueError: if nothing is left to train on; see also `images.load` and `splits.split`.
    """
    limit = None if problem.limit is None else problem.limit + problem.held_out
    data = images.load(problem.dataset, files.data_dir, limit=limit, download=files.download)
    total, validation = len(data.train["label"]), problem.held_out
    if not 1 <= validation < total:
        raise ValueError(f"validation: got {validation}, expected at least 1 and fewer than {total}")
    train, unseen = take(data.train, slice(total - validation)), take(data.train, slice(total - validation, None))
    split = splits.split(train["label"], problem.forget_class, problem.rho, problem.split_seed)
    evaluated = {"retain": take(train, split.retain), "forget": take(train, split.forget)}
    evaluated |= {
        f"{name} {kind}": take(examples, splits.alike(examples["label"], evaluated[kind]["label"]))
        for name, examples in (("validation", unseen), ("test", data.test))
        for kind in ("retain", "forget")
    }
    evaluated = {name: take(examples, slice(problem.evaluated)) for name, examples in evaluated.items()}
    source = images.SOURCES[problem.dataset]
    size, rngs = SIZES[problem.training.model], nnx.Rngs(problem.training.seed)
    model = ResNet(source.classes, channels=source.shape[-1], rngs=rngs, **size)
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    return Task(problem.dataset, train, unseen, split, evaluated, graph, (params, statistics))


def take(examples: Examples, rows: Any) -> Examples:
    """Some of the examples."""
    return {name: np.asarray(values[rows]) for name, values in examples.items()}
