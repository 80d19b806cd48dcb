"""The gradients of both objectives on a mesh: together, or each on its half of the devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._gradients import paired as paired_gradients
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Batch, Loss, checked_weights
from hamu_jax._gradients.paired import Paired, PairedGradient, paired_partials
from hamu_jax._kernel.inner_products import Tree
from hamu_jax.sharding._mesh import AXES, BATCH_AXES, FSDP, OBJECTIVE, check_mesh


def paired_value_and_grad(
    loss: Loss,
    mesh: Mesh,
    shardings: Any,
    *,
    forget_loss: Loss | None = None,
    microbatch_size: int | None = None,
    forget_groups: Groups | None = None,
) -> PairedGradient:
    """`hamu_jax.paired_value_and_grad` under `jit` on a mesh: the gradients have the parameters' shardings.

    With `objective=1` the compiler splits the work: only the gradients' shardings are prescribed. With `objective=2`
    one half of the devices differentiates the retain loss and the other the forget loss, in a `shard_map`. Parameters split
    over `fsdp` are then gathered on every device while it computes its gradient, which takes the memory of the whole model: one
    that does not fit on one device needs `objective=1`.

    Args:
      loss: as in `hamu_jax.paired_value_and_grad`.
      mesh: from `make_mesh`.
      shardings: of the parameters, from `param_shardings`.
      forget_loss: the loss of the forget batch if it is another one.
      microbatch_size: examples that are differentiated at once, on each device with `objective=2`, else on all together.
      forget_groups: the requests, as in `hamu_jax.paired_value_and_grad`.

    Returns:
      A function as `hamu_jax.paired_value_and_grad` returns it.

    Raises:
      ValueError: as `paired_value_and_grad` and `param_shardings`, or for implicit groups.
    """
    check_mesh(mesh)
    if forget_groups is not None and forget_groups.implicit:
        raise ValueError("forget_groups: got implicit=True with a mesh, expected False on many devices")
    options: dict[str, Any] = {
        "forget_loss": forget_loss,
        "microbatch_size": microbatch_size,
        "forget_groups": forget_groups,
    }
    paired = (
        paired_gradients.paired_value_and_grad(loss, **options)
        if mesh.shape[OBJECTIVE] == 1
        else _by_halves(loss, mesh, shardings, options)
    )
    stacked = jax.tree.map(lambda s: NamedSharding(mesh, PartitionSpec(None, *s.spec)), shardings)
    grad_shardings = Paired(shardings, shardings if forget_groups is None else stacked)

    def sharded(*args: Any, **weights: Any) -> tuple[Paired[Array], Paired[Tree]]:
        with device_axes.within(mesh):
            values, grads = paired(*args, **weights)
        return values, jax.lax.with_sharding_constraint(grads, grad_shardings)

    return sharded


def _by_halves(loss: Loss, mesh: Mesh, shardings: Any, options: dict[str, Any]) -> PairedGradient:
    """Both gradients at the same time, each on its half of the devices."""
    partials = paired_partials(loss, **options, axis_name=BATCH_AXES)
    specs = jax.tree.map(lambda s: s.spec, shardings)
    batch_spec = PartitionSpec(BATCH_AXES)

    def on_device(params: Tree, retain: Any, forget: Any) -> tuple[Paired[Array], Paired[Tree]]:
        whole = jax.tree.map(_gathered, params, specs)
        objectives = partials(retain[0], forget[0], retain_weights=retain[1], forget_weights=forget[1])
        shapes = jax.eval_shape(lambda p: [objective(p) for objective in objectives], whole)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        # No communication within the branches: devices in different ones would wait for each other.
        sums = jax.lax.cond(
            jax.lax.axis_index(OBJECTIVE) == 0,
            lambda: [objectives.retain(whole), zeros[1]],
            lambda: [zeros[0], objectives.forget(whole)],
        )
        values = Paired(*(jax.lax.psum(value, AXES) for value, _ in sums))
        grads = [
            jax.tree.map(lambda g, s, lead=lead: _scattered(g, s, lead), grad, specs)
            for lead, (_, grad) in zip(leads, sums, strict=True)
        ]
        return values, Paired(*grads)

    leads = (0, 0 if options["forget_groups"] is None else 1)
    out = [jax.tree.map(lambda s, lead=lead: PartitionSpec(*(None,) * lead, *s), specs) for lead in leads]
    mapped = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(specs, batch_spec, batch_spec),
        out_specs=(PartitionSpec(), Paired(*out)),
        check_vma=False,  # else the gradient with respect to replicated parameters would arrive summed
    )

    def paired(
        params: Tree,
        retain_batch: Batch,
        forget_batch: Batch,
        *,
        retain_weights: Float[Array, " retain"] | None = None,
        forget_weights: Float[Array, " forget"] | None = None,
    ) -> tuple[Paired[Array], Paired[Tree]]:
        weighed = (
            _weighed("retain_weights", retain_batch, retain_weights),
            _weighed("forget_weights", forget_batch, forget_weights),
        )
        return mapped(params, *weighed)

    return paired


def _split_axis(spec: PartitionSpec) -> int | None:
    """Which axis of a leaf is split over `fsdp`."""
    return next((axis for axis, name in enumerate(spec) if name == FSDP), None)


def _gathered(shard: Array, spec: PartitionSpec) -> Array:
    """The whole leaf, from the shards of all devices."""
    axis = _split_axis(spec)
    return shard if axis is None else jax.lax.all_gather(shard, FSDP, axis=axis, tiled=True)


def _scattered(grad: Array, spec: PartitionSpec, lead: int) -> Array:
    """The sum over all devices, of which each keeps its shard."""
    axis = _split_axis(spec)
    if axis is None:
        return jax.lax.psum(grad, AXES)
    shard = jax.lax.psum_scatter(grad, FSDP, scatter_dimension=axis + lead, tiled=True)
    return jax.lax.psum(shard, AXES[:2])


def _weighed(name: str, batch: Batch, weights: Float[Array, " batch"] | None) -> tuple[Batch, Float[Array, " batch"]]:
    """A batch with the weight of each example."""
    size = validate.batch("batch", batch)
    return batch, jnp.ones(size) if weights is None else checked_weights(name, weights, size)
