"""The options by which every experiment that unlearns is run on many devices, or on many machines."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Self

import jax
from jax.sharding import Mesh

from hamu_jax import sharding


@dataclasses.dataclass(frozen=True)
class OnDevices:
    """Where an experiment runs.

    Attributes:
      out: where the results go. Processes other than the first write to a directory of their own within.
      devices: how many devices to use; on a CPU, virtual ones. None: one, or all if there is a mesh.
      mesh: how they share the work, for example `data=4,objective=2,fsdp=1`. Default: all split the batches.
      distributed: join the other processes of the job (`jax.distributed.initialize`) before anything else.
    """

    out: Path = Path("out")
    devices: int | None = None
    mesh: str = ""
    distributed: bool = False

    def placed(self) -> tuple[Self, Mesh | None]:
        """The settings of this process, and its mesh, or None for one device. To be called before anything is computed.

        Raises:
          ValueError: if there are fewer devices than asked for, or the mesh does not fit them.
        """
        if self.distributed:
            jax.distributed.initialize()
        if self.devices is None and not self.mesh and not self.distributed:
            return self, None
        if self.devices is not None:
            with contextlib.suppress(RuntimeError):  # too late: JAX has its devices, and they are counted below
                jax.config.update("jax_num_cpu_devices", self.devices)
        there = jax.devices()
        if self.devices is not None and self.devices > len(there):
            raise ValueError(f"devices: got {self.devices}, expected at most {len(there)}: there are no more")
        own = self if jax.process_index() == 0 else dataclasses.replace(self, out=self.out / f"process{jax.process_index()}")
        return own, sharding.parse_mesh(self.mesh, there[: self.devices])
