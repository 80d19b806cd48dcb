"""Models that no example uses, trained in plain JAX on data of scikit-learn, with data to forget and data never seen."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits

Data = dict[str, np.ndarray]
CLASSES, OLDEST, WRONG = 10, 0.15, 0.2


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model, and what is to be forgotten.

    Attributes:
      loss: `loss(params, batch) -> [batch]`.
      params: the trained parameters.
      retain: the retain set.
      forget: the forget set.
      test: data of the kind that is retained, never trained on.
      unseen: data of the kind that is forgotten, never trained on; None for a class, of which the test set has none.
      level: the level, or None for that of the unseen data.
      retrained: the parameters of a model that was trained without the forget set, or None.
    """

    loss: Any
    params: Any
    retain: Data
    forget: Data
    test: Data
    unseen: Data | None = None
    level: float | None = None
    retrained: Any = None


def mlp(params: Any, x: Any) -> Any:
    """A network of dense layers with ReLU between them."""
    for index, layer in enumerate(params):
        x = x @ layer["weight"] + layer["bias"]
        if index < len(params) - 1:
            x = jax.nn.relu(x)
    return x


def init_mlp(seed: int, widths: Sequence[int]) -> Any:
    """He's initial weights, and biases of zero."""
    keys = jax.random.split(jax.random.key(seed), len(widths) - 1)
    return [
        {"weight": jax.random.normal(key, (below, above)) * (2 / below) ** 0.5, "bias": jnp.zeros(above)}
        for key, below, above in zip(keys, widths, widths[1:], strict=False)
    ]


def cross_entropy(params: Any, batch: Any) -> Any:
    """The cross-entropy of each example."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(mlp(params, batch["x"]), batch["label"])


def squared_error(params: Any, batch: Any) -> Any:
    """The squared error of each example."""
    return (mlp(params, batch["x"])[:, 0] - batch["y"]) ** 2


def accuracy(params: Any, batch: Any) -> float:
    """The share of examples that are classified as their label says."""
    return float(np.mean(np.argmax(mlp(params, batch["x"]), -1) == batch["label"]))


def mean_loss(loss: Any, params: Any, batch: Any) -> float:
    """The mean loss of a data set."""
    return float(np.mean(loss(params, batch)))


def take(data: Data, rows: Any) -> Data:
    """Some rows of a data set."""
    return {name: values[rows] for name, values in data.items()}


def train(loss: Any, params: Any, data: Data, *, epochs: int, batch_size: int, learning_rate: float, seed: int) -> Any:
    """Adam over whole batches, in another order in each epoch."""
    size = len(data["x"])
    rng, batches = np.random.default_rng(seed), size // batch_size
    orders = [rng.permutation(size)[: batches * batch_size].reshape(batches, batch_size) for _ in range(epochs)]
    return _trained(loss, learning_rate, params, data, np.concatenate(orders))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _trained(loss: Any, learning_rate: float, params: Any, data: Data, rows: Any) -> Any:
    """The parameters after one step for each row of `rows`."""
    optimizer = optax.adam(learning_rate)

    def step(carry: Any, chosen: Any) -> tuple[Any, None]:
        params, state = carry
        batch = jax.tree.map(lambda values: jnp.asarray(values)[chosen], data)
        grads = jax.grad(lambda p: jnp.mean(loss(p, batch)))(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), rows)[0][0]


def _shuffled_digits(seed: int) -> tuple[Data, np.random.Generator]:
    """All 1,797 digits in another order, and the generator that shuffled them."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    return {"x": (images / 16).astype(np.float32)[order], "label": labels.astype(np.int32)[order]}, rng


def digits_classifier(seed: int, digit: int) -> TrainedModel:
    """A classifier of digits after only 6 epochs, one digit to be forgotten, to the level of a guess."""
    data, _ = _shuffled_digits(seed)
    train_set, test = take(data, slice(1437)), take(data, slice(1437, None))
    fit = functools.partial(train, cross_entropy, epochs=6, batch_size=64, learning_rate=2e-3, seed=seed)
    chosen = train_set["label"] == digit
    return TrainedModel(
        loss=cross_entropy,
        params=fit(init_mlp(seed, (64, 128, 128, CLASSES)), train_set),
        retain=take(train_set, ~chosen),
        forget=take(train_set, chosen),
        test=take(test, test["label"] != digit),
        level=float(np.log(CLASSES)),
    )


def diabetes_regression(seed: int) -> TrainedModel:
    """A regression in plain JAX; the oldest members of its training set are to be forgotten."""
    x, y = load_diabetes(return_X_y=True)
    data = {"x": (x / x.std(0)).astype(np.float32), "y": ((y - y.mean()) / y.std()).astype(np.float32)}
    old = data["x"][:, 0] >= np.quantile(data["x"][:, 0], 1 - OLDEST)
    trained_on = np.zeros(len(y), bool)
    trained_on[np.random.default_rng(seed).permutation(len(y))[: int(0.75 * len(y))]] = True
    start = init_mlp(seed, (10, 64, 1))
    return TrainedModel(
        loss=squared_error,
        params=train(squared_error, start, take(data, trained_on), epochs=150, batch_size=32, learning_rate=3e-3, seed=seed),
        retain=take(data, trained_on & ~old),
        forget=take(data, trained_on & old),
        test=take(data, ~trained_on & ~old),
        unseen=take(data, ~trained_on & old),
    )


def memorised_labels(seed: int) -> TrainedModel:
    """A classifier that memorised its 20% wrong labels; 20 random rows are to be forgotten."""
    clean, rng = _shuffled_digits(seed)
    noisy = {**clean, "label": _some_wrong(clean["label"], rng)}
    train_set, others = take(noisy, slice(1200)), take(noisy, slice(1200, None))
    chosen = np.zeros(1200, bool)
    chosen[rng.permutation(1200)[:20]] = True
    fit = functools.partial(train, cross_entropy, epochs=150, batch_size=64, learning_rate=2e-3)
    return TrainedModel(
        loss=cross_entropy,
        params=fit(init_mlp(seed, (64, 256, CLASSES)), train_set, seed=seed),
        retain=take(train_set, ~chosen),
        forget=take(train_set, chosen),
        test=take(clean, slice(1200, None)),
        unseen=take(others, slice(300)),
        retrained=fit(init_mlp(seed + 100, (64, 256, CLASSES)), take(train_set, ~chosen), seed=seed + 100),
    )


def _some_wrong(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels of which a share is drawn anew."""
    wrong = rng.random(len(labels)) < WRONG
    drawn = rng.integers(0, CLASSES, len(labels)).astype(labels.dtype)
    return np.where(wrong, drawn, labels)
