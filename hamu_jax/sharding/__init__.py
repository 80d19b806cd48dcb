"""Many devices: meshes, the shardings of parameters and batches on them, and the gradients of both objectives.

A mesh has three axes. `data` splits batches. `objective` (1 or 2) has one half of the devices differentiate the retain loss
while the other half differentiates the forget loss. `fsdp` splits parameters, gradients and updates (and batches too).
`hamu_jax.unlearn(..., mesh=mesh)` does the rest; under `jit` any step works unchanged on arrays placed with `shard_params`
and `shard_batch`. `pmap_step` is the same step under `jax.pmap`.
"""

from hamu_jax.sharding._batches import Padded, of_padded, shard_batch, split_batch
from hamu_jax.sharding._gradients import paired_value_and_grad
from hamu_jax.sharding._mesh import make_mesh, param_shardings, parse_mesh, shard_params
from hamu_jax.sharding._pmap import pmap_step

__all__ = [
    "Padded",
    "make_mesh",
    "of_padded",
    "paired_value_and_grad",
    "param_shardings",
    "parse_mesh",
    "pmap_step",
    "shard_batch",
    "shard_params",
    "split_batch",
]
