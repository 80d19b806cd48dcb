"""Image data sets by name, from tensorflow-datasets' array_record files: no TensorFlow is needed to read them."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import digits
from experiments.data.digits import Examples
from experiments.data.text_files import read_json

BATCH = 1000  # examples decoded at once


class Source(NamedTuple):
    """What is known of a data set.

    Attributes:
      classes: how many.
      shape: of an image, height, width, channels.
      mean: per channel, of pixels in 0 to 1.
      std: likewise.
    """

    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


# CIFAR-10's numbers are those of the paper's code, whose deviations are not those of the pixels (0.247, 0.243, 0.262): they
# are means of each image's own. Those of digits are its pixels'; the others are the usual ones of the training sets.
SOURCES = {
    "digits": Source(10, (8, 8, 1), (0.3054,), (0.3760,)),
    "cifar10": Source(10, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
    "cifar100": Source(100, (32, 32, 3), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Source(10, (28, 28, 1), (0.1307,), (0.3081,)),
    "fashion_mnist": Source(10, (28, 28, 1), (0.2860,), (0.3530,)),
    "svhn_cropped": Source(10, (32, 32, 3), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


class Images(NamedTuple):
    """Training and test examples: `image` uint8 `[n, height, width, channels]` and `label` int32 `[n]`."""

    train: Examples
    test: Examples


def load(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, limit: int | None = None, download: bool = False
) -> Images:
    """Reads a data set into memory.

    Args:
      name: one of `SOURCES`. `digits` comes with scikit-learn (its test images are a fixed fifth) and needs no files.
      data_dir: directory of prepared data sets, with `NAME/VERSION/dataset_info.json` below; of several versions the newest
        is read. None: tensorflow-datasets' own, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      limit: at most that many examples of each part, the first ones. None: all.
      download: prepare the data set in `data_dir` if it is not there, from its source on the internet.

    Returns:
      Training and test examples, in the order of the files.

    Raises:
      ValueError: for a name that is not in `SOURCES`, a limit that is not positive, a data set prepared in another format
        than array_record, or images of another shape than `SOURCES` says.
      FileNotFoundError: if the data set is not there.

    Example:
      >>> examples = load("digits", limit=100).train
      >>> examples["image"].shape, examples["image"].dtype.name, examples["label"].dtype.name
      ((100, 8, 8, 1), 'uint8', 'int32')
    """
    if name not in SOURCES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(SOURCES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}, expected None or a number of at least 1")
    if name == "digits":
        return Images(*({key: value[:limit] for key, value in part.items()} for part in _digits()))
    directory = _prepared(name, data_dir, download)
    builder: Any = _tfds().builder_from_directory(directory)
    return Images(*(_read(name, builder.as_data_source(split), limit) for split in ("train", "test")))


def _tfds() -> Any:
    """tensorflow-datasets, whose import takes seconds."""
    import tensorflow_datasets  # noqa: PLC0415

    return tensorflow_datasets


def _digits() -> Images:
    """Digits in bytes, those to validate with those to train."""
    parts = digits.load()
    train = {key: np.concatenate([parts.train[key], parts.validation[key]]) for key in parts.train}
    return Images(*({**part, "image": np.rint(part["image"] * 255).astype(np.uint8)} for part in (train, parts.test)))


def _prepared(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Path:
    """The directory of a prepared data set; tensorflow-datasets' own errors for a wrong one mislead."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    versions = _versions(root / name)
    if not versions and download:
        _tfds().builder(name, data_dir=root, file_format="array_record").download_and_prepare()
        versions = _versions(root / name)
    if not versions:
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
        raise FileNotFoundError(
            f"data_dir: got {root} ({f'which holds {there}' if there else 'which holds no directories'}), expected a directory "
            f"that holds {name}/VERSION/dataset_info.json; download=True prepares it from the internet"
        )
    kind = read_json(versions[-1] / "dataset_info.json").get("fileFormat")
    if kind != "array_record":
        raise ValueError(f"data_dir: got {versions[-1]} in the format {kind}, expected array_record, which has random access")
    return versions[-1]


def _versions(path: Path) -> list[Path]:
    """The versions of a data set that are there, the newest last."""
    # While it prepares one, tensorflow-datasets has a directory beside it whose name is not a version.
    directories = (file.parent for file in path.glob("*/dataset_info.json") if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name))
    return sorted(directories, key=lambda version: [int(number) for number in version.name.split(".")])


def _read(name: str, source: Any, limit: int | None) -> Examples:
    """All examples of a part, or the first, decoded in batches."""
    size = len(source) if limit is None else min(limit, len(source))
    image, label = np.empty((size, *SOURCES[name].shape), np.uint8), np.empty(size, np.int32)
    for start in range(0, size, BATCH):
        for row, example in enumerate(source.__getitems__(list(range(start, min(start + BATCH, size)))), start):
            if example["image"].shape != image.shape[1:]:
                raise ValueError(f"{name}: got an image of shape {example['image'].shape}, expected {image.shape[1:]}")
            image[row], label[row] = example["image"], example["label"]
    return {"image": image, "label": label}
