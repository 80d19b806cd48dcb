"""Places a command on its devices, once, before anything is computed."""

import contextlib
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from hamu_jax import sharding


def place(settings: Any) -> tuple[Any, Mesh | None]:
    """The settings of this process, and the mesh of its devices, or None for one device.

    Args:
      settings: with the group `devices`, and `out`. Processes other than the first write to a directory within `out`.

    Raises:
      ValueError: if there are fewer devices than asked for, or the mesh does not fit them.
    """
    chosen = settings.devices
    if chosen.distributed:
        jax.distributed.initialize()
    if chosen.devices is None and not chosen.mesh and not chosen.distributed:
        return settings, None
    if chosen.devices is not None:
        request_virtual_devices(chosen.devices)
    available = jax.devices()
    if chosen.devices is not None and chosen.devices > len(available):
        raise ValueError(f"devices: got {chosen.devices}, expected at most {len(available)}: there are no more")
    mesh = sharding.parse_mesh(chosen.mesh, available[: chosen.devices])
    if jax.process_index():
        settings = dataclasses.replace(settings, out=settings.out / f"process{jax.process_index()}")
    return settings, mesh


def request_virtual_devices(count: int) -> None:
    """Has JAX make that many devices of a CPU, unless it has made its devices already."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
