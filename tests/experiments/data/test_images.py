"""Image data sets by name, and what happens to images on the device."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from shared_data import shared_data

from experiments.data import images
from experiments.data.preprocess import augment, normalise

IMAGE = np.arange(1, 193, dtype=np.uint8).reshape(1, 8, 8, 3)


def prepared(path: Path, version: str = "3.0.2", kind: str = "array_record") -> Path:
    """A data directory with nothing but the description of CIFAR-10."""
    directory = path / "cifar10" / version
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text(json.dumps({"fileFormat": kind}), encoding="utf-8")
    return directory


def test_digits_are_those_of_scikit_learn() -> None:
    parts = images.load("digits")
    assert [len(part["label"]) for part in parts] == [1437, 360]
    for part in parts:
        assert part["image"].dtype == np.uint8
        assert part["image"].shape[1:] == images.SOURCES["digits"].shape
        assert part["label"].dtype == np.int32
    np.testing.assert_allclose(parts.train["image"].mean() / 255, images.SOURCES["digits"].mean[0], atol=1e-4)
    np.testing.assert_allclose(parts.train["image"].std() / 255, images.SOURCES["digits"].std[0], atol=1e-4)


def test_real_cifar_10() -> None:
    parts = images.load("cifar10", shared_data("tfds"), limit=1500)
    for part in parts:
        assert part["image"].shape == (1500, 32, 32, 3)
        assert part["image"].dtype == np.uint8
        assert part["label"].dtype == np.int32
        np.testing.assert_array_equal(np.unique(part["label"]), np.arange(10))
    # The training set's mean is within two standard errors of a sample of 1,500, whose images' means deviate by 0.12.
    mean = parts.train["image"].mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(mean, images.SOURCES["cifar10"].mean, atol=2 * 0.12 / np.sqrt(1500))
    # The deviations of the paper's code are the means of each image's own.
    own = np.mean(parts.train["image"].std(axis=(1, 2)), axis=0) / 255
    np.testing.assert_allclose(own, images.SOURCES["cifar10"].std, atol=0.005)


def test_the_limit_takes_the_first() -> None:
    few, more = (images.load("cifar10", shared_data("tfds"), limit=limit) for limit in (3, 5))
    for some, others in zip(few, more, strict=True):
        np.testing.assert_array_equal(some["image"], others["image"][:3])
        np.testing.assert_array_equal(some["label"], others["label"][:3])


@pytest.mark.slow
def test_all_of_cifar_10() -> None:
    parts = images.load("cifar10", shared_data("tfds"))
    assert np.bincount(parts.train["label"]).tolist() == [5000] * 10
    assert np.bincount(parts.test["label"]).tolist() == [1000] * 10


def test_a_wrong_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got .* \(which holds no directories\), expected .* mnist/VERSION"):
        images.load("mnist", tmp_path / "nowhere")
    prepared(tmp_path)
    prepared(tmp_path, "incomplete.4YX_3.0.3")
    with pytest.raises(FileNotFoundError, match=r"got .* \(which holds cifar10\), expected .* holds mnist/VERSION"):
        images.load("mnist", tmp_path)


def test_the_directory_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        images.load("cifar100")


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    prepared(tmp_path, "3.0.2")
    prepared(tmp_path, "3.0.10", kind="tfrecord")
    prepared(tmp_path, "incomplete.4YX_3.0.11")
    with pytest.raises(ValueError, match=r"^data_dir: got .*3\.0\.10 in the format tfrecord, expected array_record"):
        images.load("cifar10", tmp_path)


def test_names_and_limits_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^name: got 'imagenet', expected one of digits, cifar10"):
        images.load("imagenet")
    with pytest.raises(ValueError, match=r"^limit: got 0, expected"):
        images.load("digits", limit=0)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_normalised_as_in_float64(name: str) -> None:
    source, image = images.SOURCES[name], IMAGE[..., : images.SOURCES[name].shape[-1]]
    got = normalise(image, name)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (image / 255 - source.mean) / source.std, rtol=1e-6, atol=1e-6)


def test_augmented_images_are_windows_of_the_padded_image_or_its_mirror() -> None:
    many = np.repeat(IMAGE, 300, axis=0)
    got = np.asarray(augment(jax.random.key(0), many, padding=1))
    assert got.dtype == np.uint8
    candidates = {
        np.pad(one, ((1, 1), (1, 1), (0, 0)))[y : y + 8, x : x + 8].tobytes(): (side, y, x)
        for side, one in enumerate((IMAGE[0], IMAGE[0, :, ::-1]))
        for y in range(3)
        for x in range(3)
    }
    # Each of the 18 is missed with a probability of (17/18)^300, 4e-8.
    assert {candidates[one.tobytes()] for one in got} == set(candidates.values())
    np.testing.assert_array_equal(got, augment(jax.random.key(0), many, padding=1))
    assert np.any(got != np.asarray(augment(jax.random.key(1), many, padding=1)))


def test_nothing_is_changed_without_padding_and_flip() -> None:
    np.testing.assert_array_equal(augment(jax.random.key(0), IMAGE, padding=0, flip=False), IMAGE)
