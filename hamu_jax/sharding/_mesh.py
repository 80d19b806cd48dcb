"""Meshes of devices, and where parameters lie on them."""

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

    Its axes are `AxisType.Auto`: `jit` places what has not been placed. (`jax.make_mesh` by itself makes Explicit ones, on
    which arrays must be placed before they meet.)

    Args:
      data: how many ways a batch is split. None: as many as the devices allow.
      objective: 2 to differentiate the two losses at the same time on two halves of the devices, else 1.
      fsdp: how many ways parameters, gradients and updates are split.
      devices: which devices. None: all, of all processes.

    Returns:
      A `jax.sharding.Mesh` of `data x objective x fsdp` devices. Neighbours along `fsdp`, which send most, are neighbours.

    Raises:
      ValueError: for sizes below 1, an `objective` other than 1 or 2, or a product that is not the number of devices.

    >>> print(dict(make_mesh(devices=jax.devices()[:1]).shape))
    {'data': 1, 'objective': 1, 'fsdp': 1}
    """
    is_listed = isinstance(devices, Iterable)  # pyright: ignore[reportUnnecessaryIsInstance]: callers are not all typed
    given: list[Any] = jax.devices() if devices is None else list(devices) if is_listed else []
    if not given or not all(hasattr(device, "platform") for device in given):
        raise ValueError(f"devices: got {validate.shown(devices)}, expected at least one device, or None for all of them")
    for name, size in (("data", data), ("objective", objective), ("fsdp", fsdp)):
        if size is not None:
            validate.integer(name, size)
    if objective not in (1, 2):
        raise ValueError(f"objective: got {objective}, expected 1, or 2: there are two objectives")
    rest = objective * fsdp
    if len(given) % rest or (data is not None and data * rest != len(given)):
        raise ValueError(
            f"mesh: got data={'any' if data is None else data}, objective={objective}, fsdp={fsdp} for {len(given)} devices, "
            f"expected data * objective * fsdp = {len(given)}"
        )
    shape = (len(given) // rest, objective, fsdp)
    if devices is None:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)
    return Mesh(np.asarray(given).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def parse_mesh(text: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh from words such as `data=4,objective=2,fsdp=1`; axes that are left out have size 1, `data` what remains.

    Raises:
      ValueError: for an unknown axis, a size that is no number, and as `make_mesh`.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES or name in sizes:
            raise ValueError(f"mesh: got the axis {name!r} in {text!r}, expected each of {', '.join(AXES)} at most once")
        if not size.isdecimal():
            raise ValueError(f"mesh: got {name}={size!r} in {text!r}, expected a whole number")
        sizes[name] = int(size)
    return make_mesh(**sizes, devices=devices)


def param_shardings(params: Tree, mesh: Mesh) -> Any:
    """Where parameters lie: where they are, if that is on this mesh; else split over `fsdp`.

    They are split along their longest axis that divides. A leaf none of whose axes is divisible by the size of `fsdp`
    (some biases and norms) is whole on every device.

    Args:
      params: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
      mesh: from `make_mesh`.

    Returns:
      A pytree of `NamedSharding`, like `params`.

    Raises:
      ValueError: for a mesh without our axes.
    """
    check_mesh(mesh)

    def of(leaf: Any) -> NamedSharding:
        present = getattr(leaf, "sharding", None)
        if isinstance(present, NamedSharding) and present.mesh == mesh:
            return present
        return NamedSharding(mesh, _fsdp_spec(np.shape(leaf), mesh.shape[FSDP]))

    return jax.tree.map(of, params)


def shard_params(params: Tree, mesh: Mesh) -> Tree:
    """Places parameters on a mesh, as `param_shardings` says. On many processes each must pass the same values.

    Raises:
      ValueError: as `param_shardings`.
    """
    return jax.device_put(params, param_shardings(params, mesh))


def _fsdp_spec(shape: tuple[int, ...], count: int) -> PartitionSpec:
    """Splits the longest axis that divides; none if no axis does."""
    fitting = [axis for axis, size in enumerate(shape) if count > 1 and size and size % count == 0]
    if not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, FSDP)


def check_mesh(mesh: Mesh) -> None:
    """Checks that a mesh has our axes."""
    got = getattr(mesh, "axis_names", type(mesh).__name__)
    if got == AXES and mesh.size == 0:
        raise ValueError("mesh: got a mesh without devices, expected at least one")
    if got != AXES:
        raise ValueError(f"mesh: got {got!r}, expected a mesh from hamu_jax.sharding.make_mesh, with the axes {AXES}")
