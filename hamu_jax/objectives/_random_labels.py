"""Random labels, for methods that train a model on wrong labels."""

import numpy as np
from jaxtyping import Int, Integer

from hamu_jax._base import validate


def random_labels(labels: Integer[np.ndarray, "*shape"], classes: int, *, seed: int) -> Int[np.ndarray, "*shape"]:
    """A wrong label for each example, drawn once and uniformly from the other classes.

    Store them in the forget set, so that an example's label is always the same, whatever batch it comes in:
    `forget["random"] = random_labels(forget["label"], 10, seed=0)`, and
    `forget_loss=lowered(cross_entropy(apply, label="random"))`.

    Args:
      labels: the true labels; -1, padding, stays -1.
      classes: how many classes there are, at least 2.
      seed: of the draw.

    Returns:
      Labels of the same shape.

    Raises:
      TypeError, ValueError: if there are fewer than two classes, or labels that are none of them.

    Example:
      >>> import numpy as np
      >>> print(random_labels(np.array([0, 1, -1]), 2, seed=0))
      [ 1  0 -1]

    Source: SalUn, arXiv 2310.12508, equation 5 (`y' != y`).
    """
    validate.integer("classes", classes, at_least=2)
    labels = np.asarray(validate.real_array("labels", labels))
    if not np.issubdtype(labels.dtype, np.integer) or np.any(labels >= classes):
        got = f"dtype {labels.dtype}" if not np.issubdtype(labels.dtype, np.integer) else f"label {labels.max()}"
        raise ValueError(f"labels: got {got}, expected integers from 0 to {classes - 1}, or -1 for padding")
    seed = validate.integer("seed", seed, at_least=0)
    moved = (labels + np.random.default_rng(seed).integers(1, classes, labels.shape)) % classes
    return np.where(labels >= 0, moved, -1).astype(np.int32)
