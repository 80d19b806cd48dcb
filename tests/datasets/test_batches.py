"""Batches: every example equally often, in an order that depends on the seed and the batch's number only."""

import dataclasses
import itertools
import re
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from hamu_jax._datasets.batches import batches, is_arrays


class Pair(NamedTuple):
    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass
class Repeatable:
    """An iterable that starts again, like a data loader."""

    content: list[Any]
    passes: int = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(self.content)


def take(count: int, data: Any, batch_size: int, *, seed: tuple[int, int] = (0, 0), start: int = 0) -> list[Any]:
    return list(itertools.islice(batches("retain", data, batch_size, seed, start), count))


@pytest.mark.parametrize(
    "data", [{"x": np.ones(2)}, (np.ones(2), np.ones(2)), Pair(np.ones(2), np.ones(2)), np.ones(2), jnp.ones(2)]
)
def test_pytrees_of_arrays(data: Any) -> None:
    assert is_arrays(data)


@pytest.mark.parametrize("data", [[{"x": np.ones(2)}], Repeatable([]), iter([np.ones(2)])])
def test_iterables_of_batches(data: Any) -> None:
    assert not is_arrays(data)


def test_epochs_follow_each_other_without_a_gap() -> None:
    got = np.stack(take(15, np.arange(10), 4))  # 60 examples: six epochs, whose borders lie within batches
    epochs = got.reshape(6, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6  # each in an order of its own


def test_any_batch_is_found_by_its_number() -> None:
    for data in (np.arange(10), [np.arange(3), np.arange(4), np.arange(5)]):
        whole = take(9, data, 4)
        for start in (0, 1, 4, 8):
            late = take(9 - start, data, 4, start=start)
            assert [b.tolist() for b in late] == [b.tolist() for b in whole[start:]]


def test_order_is_a_function_of_the_seed() -> None:
    orders = {seed: np.concatenate(take(5, np.arange(20), 4, seed=seed)).tolist() for seed in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert orders[0, 0] == np.concatenate(take(5, np.arange(20), 4, seed=(0, 0))).tolist()
    assert len({tuple(order) for order in orders.values()}) == 4  # the retain and the forget stream differ, too


@pytest.mark.parametrize("batch_size", [5, 6, 1000])
def test_a_large_batch_is_the_whole_set(batch_size: int) -> None:
    got = take(4, np.arange(5), batch_size)
    assert [sorted(batch.tolist()) for batch in got] == [list(range(5))] * 4


def test_leaves_stay_together_and_keep_their_structure() -> None:
    data = Pair(np.arange(12.0).reshape(6, 2), np.arange(6))
    for batch in take(5, data, 4):
        assert isinstance(batch, Pair)
        np.testing.assert_array_equal(batch.image[:, 0], 2.0 * batch.label)
    (single,) = take(1, jnp.arange(6.0), 4)
    assert single.shape == (4,)
    (pair,) = take(1, (np.arange(6), {"y": np.arange(6)}), 4)
    np.testing.assert_array_equal(pair[0], pair[1]["y"])


def test_an_iterable_is_repeated() -> None:
    data = Repeatable(["a", "b", "c"])
    assert take(7, data, 128) == ["a", "b", "c", "a", "b", "c", "a"]
    assert data.passes == 3
    assert take(5, ["a", "b"], 1) == ["a", "b", "a", "b", "a"]


def test_a_generator_runs_out() -> None:
    stream = batches("forget", (number for number in range(3)), 4, (0, 0), 0)
    assert list(itertools.islice(stream, 3)) == [0, 1, 2]
    message = "forget: got an iterator that ended after 1 pass, expected arrays, or an iterable of batches that can be repeated"
    with pytest.raises(ValueError, match=re.escape(message)):
        next(stream)


def test_an_empty_iterable() -> None:
    with pytest.raises(ValueError, match="retain: got no batches, expected arrays"):
        take(1, [], 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": np.ones((0, 2))}, "forget: got 0 examples, expected at least 1"),
        ({"x": np.ones(3), "y": np.ones(2)}, "forget: got 2 examples at 'y', expected 3 as at 'x'"),
        ({"x": 1.0}, "forget: got a 0-d leaf at 'x', expected a leading example axis"),
        ({}, "forget: got a pytree without arrays"),
    ],
)
def test_data_that_cannot_be_batched(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        batches("forget", data, 4, (0, 0), 0)  # at once, before a batch is asked for
