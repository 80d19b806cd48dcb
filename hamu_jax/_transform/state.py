"""The state of the transformations, and how to read it."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hamu_jax._base import validate
from hamu_jax._kernel.blocks import Blocks, partition
from hamu_jax._kernel.budget import Budget
from hamu_jax._kernel.hardness import Geometry, Hardness
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.step import describe
from hamu_jax._transform.step_requests import Requests
from hamu_jax.rules import hamu_q

Number: TypeAlias = float | Float[Array, "..."] | optax.Schedule


class TransformState(NamedTuple):
    """State of `combine`, `transform` and `hamu`.

    Attributes:
      step: number of updates made, for schedules.
      hardness: what the last update measured; zeros before the first.
      requests: what the last update promised to each request, with `forget_axis`; else empty.
    """

    step: Int[Array, ""]
    hardness: Hardness
    requests: Requests | tuple[()] = ()


def get_hardness(state: Any) -> Hardness:
    """The `Hardness` that the last update measured, from the state of any chain with one transform of hamu_jax.

    Raises:
      ValueError: if there is none in `state`, or more than one.
    """
    return _only(state, Hardness, "transforms")


def get_requests(state: Any) -> Requests:
    """The `Requests` that the last update promised, from the state of a chain with `transform(..., forget_axis=0)`.

    Raises:
      ValueError: if there is none in `state`, or more than one.
    """
    return _only(state, Requests, "transforms with forget_axis")


def _only(state: Any, kind: Any, name: str) -> Any:
    """The one node of a type in an optimizer's state."""
    nodes = [leaf for leaf in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind)) if isinstance(leaf, kind)]
    if len(nodes) != 1:
        raise ValueError(f"state: got {len(nodes)} hamu_jax {name} in it, expected 1")
    return nodes[0]


def at_step(name: str, value: Number, step: Array, dtype: Any, shape: tuple[int, ...] = ()) -> Array:
    """A number or schedule at a step; or, of requests, one number for each. A negative number of a schedule becomes NaN.

    Raises:
      TypeError, ValueError: while tracing, for a schedule that does not return one real number.
    """
    if not callable(value):
        return jnp.asarray(value, dtype)
    result = validate.real_array(f"{name} (a schedule's result)", value(step))
    if result.shape not in ((), shape):
        expected = "a number" if shape == () else f"a number or {shape}"
        raise ValueError(f"{name}: got a schedule that returns shape {result.shape}, expected {expected}")
    number = jnp.asarray(result, dtype)
    return jnp.where(number >= 0, number, jnp.nan)


def check_params(params: Any) -> None:
    """Checks that parameters are floating-point; the placeholder that `optax.tree.map_params` passes instead is accepted."""
    validate.gradients("params", params, some=not _is_placeholder(params))


def count_blocks(params: Any, blocks: Blocks) -> int:
    """The number of blocks; 0 for a state of which only the structure is needed (`optax.tree.map_params`)."""
    return 0 if _is_placeholder(params) else len(partition(params, blocks).labels)


def _is_placeholder(params: Any) -> bool:
    """Whether this is the placeholder from which `optax.tree.map_params` initialises a state."""
    return type(params).__name__ == "_ParamsPlaceholder"


def empty_hardness(params: Tree, blocks: Blocks) -> Hardness:
    """Zeros in the shapes and dtypes that `update` will fill."""

    def measured(x: Float[Array, " blocks"]) -> Hardness:
        regime, change = jnp.zeros(x.shape, jnp.int32), jnp.stack([x, x], axis=1)
        return describe(Geometry(x, x, x, x), Budget(x, x), regime=regime, change=change, finite=jnp.isfinite(x), rule=hamu_q())

    numbers = jax.ShapeDtypeStruct((count_blocks(params, blocks),), accumulation_dtype(params))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measured, numbers))
