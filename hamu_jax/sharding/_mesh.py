"""Meshes of devices, and the shardings of parameters on them."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hamu_jax._base import validate
from hamu_jax._kernel.inner_products import Tree

AXES = ("data", "objective", "fsdp")
OBJECTIVE, FSDP = AXES[1:]
BATCH_AXES = ("data", "fsdp")


def make_mesh(*, data: int | None = None, objective: int = 1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `data`, `objective` and `fsdp`.

    Its axes are `AxisType.Auto`: `jit` chooses the sharding of an array that has none. (By default `jax.make_mesh` makes
    Explicit axes, on which arrays must have compatible shardings before they are combined.)

    Args:
      data: how many ways a batch is split. None: as many as the devices allow.
      objective: 2 to differentiate the two losses at the same time on two halves of the devices, else 1.
      fsdp: how many ways parameters, gradients and updates are split.
      devices: which devices. None: all, of all processes.

    Returns:
      A `jax.sharding.Mesh` of `data x objective x fsdp` devices. Devices that are adjacent along `fsdp`,
      which communicate most, are adjacent.

    Raises:
      ValueError: for sizes below 1, an `objective` other than 1 or 2, or a product that is not the number of devices.

    >>> print(dict(make_mesh(devices=jax.devices()[:1]).shape))
    {'data': 1, 'objective': 1, 'fsdp': 1}
    """
    is_listed = isinstance(devices, Iterable)  # pyright: ignore[reportUnnecessaryIsInstance]: callers are not all typed
    chosen: list[Any] = jax.devices() if devices is None else list(devices) if is_listed else []
    if not chosen or not all(hasattr(device, "platform") for device in chosen):
        raise ValueError(f"devices: got {validate.shown(devices)}, expected at least one device, or None for all of them")
    for name, size in (("data", data), ("objective", objective), ("fsdp", fsdp)):
        if size is not None:
            validate.integer(name, size)
    if objective not in (1, 2):
        raise ValueError(f"objective: got {objective}, expected 1, or 2: there are two objectives")
    rest = objective * fsdp
    if len(chosen) % rest or (data is not None and data * rest != len(chosen)):
        raise ValueError(
            f"mesh: got data={'any' if data is None else data}, objective={objective}, fsdp={fsdp} for {len(chosen)} devices, "
            f"expected data * objective * fsdp = {len(chosen)}"
        )
    shape = (len(chosen) // rest, objective, fsdp)
    if devices is None:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)
    return Mesh(np.asarray(chosen).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def parse_mesh(text: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh from words such as `data=4,objective=2,fsdp=1`; left-out axes have size 1, and `data` the remaining factor.

    Raises:
      ValueError: for an unknown axis, a size that is no number, and as `make_mesh`.
    """
    sizes: dict[str, int] = {}
    for axis in filter(None, text.replace(" ", "").split(",")):
        name, _, size = axis.partition("=")
        if name not in AXES or name in sizes:
            raise ValueError(f"mesh: got the axis {name!r} in {text!r}, expected each of {', '.join(AXES)} at most once")
        if not size.isdecimal():
            raise ValueError(f"mesh: got {name}={size!r} in {text!r}, expected a whole number")
        sizes[name] = int(size)
    return make_mesh(**sizes, devices=devices)


def param_shardings(params: Tree, mesh: Mesh) -> Any:
    """The shardings of parameters: their present ones if they are on this mesh, else split over `fsdp`.

    A leaf is split along its longest axis that the size of `fsdp` divides; if there is none (some biases and norms), it is
    replicated.

    Args:
      params: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
      mesh: from `make_mesh`.

    Returns:
      A pytree of `NamedSharding`, like `params`.

    Raises:
      ValueError: for a mesh with other axes.
    """
    check_mesh(mesh)

    def sharding(leaf: Any) -> NamedSharding:
        present = getattr(leaf, "sharding", None)
        if isinstance(present, NamedSharding) and present.mesh == mesh:
            return present
        return NamedSharding(mesh, _fsdp_spec(np.shape(leaf), mesh.shape[FSDP]))

    return jax.tree.map(sharding, params)


def shard_params(params: Tree, mesh: Mesh) -> Tree:
    """Places parameters on a mesh, as `param_shardings` says. On many processes each must pass the same values.

    Raises:
      ValueError: as `param_shardings`.
    """
    return jax.device_put(params, param_shardings(params, mesh))


def _fsdp_spec(shape: tuple[int, ...], count: int) -> PartitionSpec:
    """Splits the longest axis that `count` divides; none if it divides none."""
    fitting = [axis for axis, size in enumerate(shape) if count > 1 and size and size % count == 0]
    if not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, FSDP)


def check_mesh(mesh: Mesh) -> None:
    """Checks that a mesh has the axes of `make_mesh`."""
    got = getattr(mesh, "axis_names", type(mesh).__name__)
    if got == AXES and mesh.size == 0:
        raise ValueError("mesh: got a mesh without devices, expected at least one")
    if got != AXES:
        raise ValueError(f"mesh: got {got!r}, expected a mesh from hamu_jax.sharding.make_mesh, with the axes {AXES}")
