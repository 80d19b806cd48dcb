"""The division into what to forget and what to retain."""

import functools
import hashlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from experiments.data import splits

RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)


@functools.cache
def fixture() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[2] / "data" / "splits.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("rho", RHOS)
def test_the_rows_of_the_reference_in_its_order(rho: float) -> None:
    parts = splits.split(fixture()["labels"], 0, rho)
    np.testing.assert_array_equal(parts.forget, fixture()[f"seed42_rho{rho}/forget"])
    np.testing.assert_array_equal(parts.retain, fixture()[f"seed42_rho{rho}/retain"])


def test_every_rho_of_the_reference_is_there() -> None:
    assert {name for name in fixture() if name != "labels"} == {
        f"seed42_rho{rho}/{part}" for rho in RHOS for part in ("forget", "retain")
    }


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.floats(0, 1), st.integers(0, 5))
def test_no_row_is_in_both_and_none_is_lost(labels: list[int], rho: float, seed: int) -> None:
    labels = [*labels, 0, 1]
    count, of_class = len(labels), labels.count(0)
    parts = splits.split(np.array(labels), 0, rho, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert len(parts.forget) == (-(-count // 10) if rho == 1 else of_class)
    # Rows that are not exchanged are of the class.
    if rho < 1:
        assert np.sum(np.array(labels)[parts.forget] == 0) >= of_class - int(rho * of_class)
    again = splits.split(np.array(labels), 0, rho, seed)
    assert again.sha256 == parts.sha256
    np.testing.assert_array_equal(again.forget, parts.forget)


def test_the_seed_decides_unless_rho_is_0() -> None:
    labels = fixture()["labels"]
    hashes = {rho: {splits.split(labels, 0, rho, seed).sha256 for seed in range(4)} for rho in RHOS}
    assert {rho: len(values) for rho, values in hashes.items()} == {0.0: 1, 0.25: 4, 0.5: 4, 0.75: 4, 1.0: 4}


def test_the_hash_is_of_the_sorted_rows() -> None:
    parts = splits.Split(np.array([3, 1]), np.array([2, 0]))
    expected = b"".join(number.to_bytes(8, "little") for number in (4, 1, 3))
    assert parts.sha256 == hashlib.sha256(expected).hexdigest()
    assert parts.sha256 == splits.Split(np.array([1, 3]), np.array([0, 2])).sha256
    assert parts.sha256 != splits.Split(np.array([1, 3]), np.array([0, 2, 4])).sha256


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_rho_is_a_fraction(rho: float) -> None:
    with pytest.raises(ValueError, match=rf"^rho: got {rho}, expected a number from 0 to 1$"):
        splits.split(np.array([0, 1]), 0, rho)


@pytest.mark.parametrize("rho", RHOS)
def test_the_class_must_be_there(rho: float) -> None:
    with pytest.raises(ValueError, match=r"^forget_class: got 7, expected a class that is there \(0, 1\)$"):
        splits.split(np.array([0, 1, 1]), 7, rho)
    with pytest.raises(ValueError, match=r"^forget_class: got 0, expected .* \(none, as there are no labels\)$"):
        splits.split(np.array([], int), 0, rho)


@pytest.mark.parametrize(("labels", "rho"), [([2, 2], 0.0), ([2, 2], 0.5), ([2], 1.0)])
def test_something_must_be_retained(labels: list[int], rho: float) -> None:
    with pytest.raises(ValueError, match=rf"^labels: got {len(labels)}, all of which would be forgotten"):
        splits.split(np.array(labels), 2, rho)


def test_labels_are_a_vector() -> None:
    with pytest.raises(ValueError, match=r"^labels: got shape \(2, 1\), expected \(n,\)$"):
        splits.split(np.zeros((2, 1), int), 0, 0.5)
