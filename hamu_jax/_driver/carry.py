"""What one step of the driver hands to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jaxtyping import Array, Int

from hamu_jax._base import validate
from hamu_jax._driver.settings_checks import check_wrappers
from hamu_jax._driver.stopping import Halt
from hamu_jax._driver.trust_region import Trust, TrustRegion, first_trust
from hamu_jax._transform.state import get_hardness
from hamu_jax.sharding._batches import replicated
from hamu_jax.sharding._mesh import shard_params


class Carry(NamedTuple):
    """What one step hands to the next, on the device. Once `halt` is set nothing else changes.

    Attributes:
      params: the parameters.
      previous: the parameters before the last step, whose losses and gradients were finite.
      state: the optimizer's state.
      streaks: for how many steps in a row each stopping condition has held.
      halt: a `Halt`.
      trust: the trust region's memory; empty without one.
      best: the best parameters that were evaluated; empty if the last ones are returned.
    """

    params: Any
    previous: Any
    state: Any
    streaks: Int[Array, "3"]
    halt: Int[Array, ""]
    trust: Trust | tuple[()] = ()
    best: Any = ()


def first_carry(
    params: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh | None = None,
    *,
    trust_region: TrustRegion | None = None,
    keeps_best: bool = False,
) -> Carry:
    """The carry before the first step. Parameters are copied, since every step consumes its carry.

    On a mesh parameters are split over `fsdp`, and so are the optimizer's arrays for each of them.

    Raises:
      TypeError: if parameters are not floating-point.
      ValueError: if the optimizer does not contain exactly one transform of this library.
    """
    validate.gradients("params", params)
    # The dtype makes the copies strongly typed, as the step's results are, so that the step is traced once.
    placed = params if mesh is None else shard_params(params, mesh)
    copied = jax.tree.map(lambda x: jnp.array(x, x.dtype, copy=True), placed)
    state = optimizer.init(copied)
    check_wrappers(state)
    try:
        get_hardness(state)
    except ValueError as error:
        raise ValueError(f"optimizer: {error}: chain hamu_jax.transform or hamu_jax.combine into it") from None
    carry = Carry(
        params=copied,
        previous=jax.tree.map(jnp.copy, copied),
        state=state,
        streaks=jnp.zeros(3, jnp.int32),
        halt=jnp.int32(Halt.RUNNING),
        trust=() if trust_region is None else first_trust(trust_region),
        best=jax.tree.map(jnp.copy, copied) if keeps_best else (),
    )
    return _committed(carry) if mesh is None else jax.tree.map(lambda x: _on_mesh(x, mesh), carry)


def _committed(carry: Carry) -> Carry:
    """The whole carry on the device of its parameters, if they are committed to one, as restored ones are.

    The results of a step are committed if one of its arguments is: with a partly committed carry it would be compiled twice.
    """
    shardings = {x.sharding for x in jax.tree.leaves(carry) if x.committed}
    is_one_device = len(shardings) == 1 and all(isinstance(sharding, SingleDeviceSharding) for sharding in shardings)
    return jax.device_put(carry, shardings.pop()) if is_one_device else carry


def _on_mesh(x: Array, mesh: Mesh) -> Array:
    """The array itself if it is on the mesh already, else a copy on every device."""
    is_on_mesh = isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh
    return x if is_on_mesh else jax.device_put(x, replicated(mesh))
