"""Scikit-learn's 1,797 real handwritten digits (8 x 8 pixels), which come with the library."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10
Examples = dict[str, np.ndarray]


class Split(NamedTuple):
    """Train, validation and test examples: settings are chosen on validation, test is only reported."""

    train: Examples
    validation: Examples
    test: Examples


def load(seed: int = 0) -> Split:
    """Images `[n, 8, 8, 1]` in 0 to 1 and labels `[n]`: 60% to train, 20% to validate, 20% to test, classes in proportion."""
    digits = load_digits()
    images, labels = (digits.images[..., None] / 16.0).astype(np.float32), digits.target.astype(np.int32)
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=seed)
    return Split(*({"image": images[rows], "label": labels[rows]} for rows in (train, validation, test)))


def by_class(examples: Examples, forgotten: int) -> tuple[Examples, Examples]:
    """`(retain, forget)`: every other class, and the class to be forgotten.

    Raises:
      ValueError: for a class without examples, before anything is trained.
    """
    of_class = examples["label"] == forgotten
    if not of_class.any():
        classes = ", ".join(map(str, np.unique(examples["label"])))
        raise ValueError(f"forget_class: got {forgotten}, expected a class that has examples ({classes})")
    return {k: v[~of_class] for k, v in examples.items()}, {k: v[of_class] for k, v in examples.items()}
