"""Arrays that a loss needs but nobody trains, such as the base model beside an adapter."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Frozen:
    """Holds arrays in such a way that a function which uses them can be jitted by others, who do not know of them.

    What a jitted function closes over is compiled into it as constants: with 135 million float32 weights, a driver's first
    three steps took 121 s and 8.0 GB on a CPU. Held as `jax.new_ref` has them, and read where they are needed, they are an
    argument of the compiled program that JAX hands over by itself: 40 s and 3.0 GB. Another model of the same shapes does
    not compile anew either.

    The arrays are copied. With a mesh they lie whole on each of its devices, as `hamu_jax.unlearn(..., mesh=mesh)` wants.

    Example:
      >>> import jax.numpy as jnp
      >>> base = Frozen({"kernel": jnp.ones((2, 3))})
      >>> jax.jit(lambda x: x @ base()["kernel"])(jnp.ones(2)).tolist()
      [2.0, 2.0, 2.0]
    """

    def __init__(self, arrays: Any, *, mesh: Mesh | None = None) -> None:
        placed = arrays if mesh is None else jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
        self._refs = jax.tree.map(jax.new_ref, placed)

    def __call__(self) -> Any:
        """The arrays."""
        return jax.tree.map(lambda ref: ref[...], self._refs)
