"""Which tensors make a block, how blocks are named, and sums over them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from hamu_jax import Stacked, block_labels
from hamu_jax._kernel.blocks import partition, path_name

PARAMS = {"embed": jnp.ones((4, 2)), "layers": [{"kernel": jnp.ones((3, 2, 2)), "bias": jnp.ones((3, 2))}], "head": jnp.ones(2)}


def by_role(path: Any) -> Any:
    """One block a scanned layer, one for all that is not in a layer."""
    return Stacked("layer") if path[0].key == "layers" else "outside"


def test_labels_follow_the_leaves() -> None:
    assert block_labels(PARAMS) == ("embed", "head", "layers/0/bias", "layers/0/kernel")
    assert block_labels(PARAMS, "global") == ("global",)
    assert block_labels(PARAMS, by_role) == ("outside", "layer/0", "layer/1", "layer/2")


def test_labels_are_in_order_of_first_appearance() -> None:
    assert block_labels({"a": 1.0 * jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2)}, lambda path: path[0].key in "ac") == (
        "True",
        "False",
    )


def test_labels_need_shapes_only() -> None:
    shapes = jax.eval_shape(lambda: PARAMS)
    assert block_labels(shapes, by_role) == block_labels(PARAMS, by_role)


def test_a_stack_and_a_name_that_reads_the_same_are_two_blocks() -> None:
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    assert block_labels(params, lambda path: Stacked("x") if path[0].key == "a" else "x/0") == ("x/0", "x/1", "x/0")


def test_a_bare_array_has_a_name() -> None:
    assert block_labels(jnp.ones(3)) == ("params",)
    assert path_name(()) == "params"


def test_partitions_are_hashable_and_equal_by_value() -> None:
    assert hash(partition(PARAMS, by_role)) == hash(partition(PARAMS, by_role))
    assert partition(PARAMS, by_role) == partition(jax.eval_shape(lambda: PARAMS), by_role)


def test_sum_and_spread() -> None:
    blocks = partition(PARAMS, by_role)
    leaves = jax.tree.leaves(PARAMS)
    parts = [jnp.asarray(1.0), jnp.asarray(2.0), jnp.arange(3.0), 10 * jnp.arange(3.0)]
    np.testing.assert_array_equal(blocks.sum(parts), [3, 0, 11, 22])
    spread = blocks.spread(jnp.array([5.0, 6.0, 7.0, 8.0]), leaves)
    assert [x.shape for x in spread] == [(), (), (3, 1), (3, 1, 1)]
    np.testing.assert_array_equal(spread[3][:, 0, 0], [6, 7, 8])


def test_sum_without_shared_blocks() -> None:
    blocks = partition(PARAMS, "leaf")
    np.testing.assert_array_equal(blocks.sum([jnp.asarray(float(i)) for i in range(4)]), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("params", "blocks", "message"),
    [
        (PARAMS, "layer", r"blocks: got 'layer', expected 'leaf', 'global' or a function from a key path to a label"),
        ({}, "leaf", r"params: got a pytree without arrays, expected at least one"),
        ({"a": jnp.ones(())}, lambda _: Stacked("s"), r"got Stacked\('s'\) for the 0-d leaf 'a', expected a leading axis"),
        (
            {"a": jnp.ones((2, 3)), "b": jnp.ones((4, 3))},
            lambda _: Stacked("s"),
            r"got a leading axis of 4 at 'b', expected 2 as in the other leaves labelled Stacked\('s'\)",
        ),
    ],
    ids=["name", "empty", "0-d", "sizes"],
)
def test_errors(params: Any, blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_labels(params, blocks)


def test_labels_are_public() -> None:
    assert hamu_jax.block_labels is block_labels
