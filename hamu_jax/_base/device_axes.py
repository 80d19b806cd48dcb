"""Devices: sums over named axes of `jax.pmap` and `jax.shard_map`, and what each device computes alone.

`shard_map` tracks by default (`check_vma=True`) over which axes an array varies, and then the gradient with respect to
parameters that are the same on every device arrives already summed over the devices. Averaging that again would take a
step as many times too long as there are devices, silently. So whatever is differentiated is marked as varying first
(`per_device`), and gradients that are to be averaged must vary (`mean`).
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array

AxisName: TypeAlias = str | tuple[str, ...]
T = TypeVar("T")


def check(name: str, axis: AxisName | None) -> None:
    """Checks, while tracing, that the axis is one of the surrounding `pmap` or `shard_map`.

    Raises:
      ValueError: if it is not.
    """
    if axis is None:
        return
    try:
        jax.lax.axis_size(axis)
    except NameError:
        raise ValueError(f"{name}: got {axis!r}, expected an axis of the jax.pmap or jax.shard_map around this call") from None


def per_device(tree: T, axis: AxisName | None) -> T:
    """The same arrays, marked as different on each device: a gradient with respect to them is this device's alone."""
    if axis is None or not _is_tracked(axis):
        return tree
    return jax.tree.map(lambda x: x if _varies(x, axis) else jax.lax.pcast(x, axis, to="varying"), tree)


def total(tree: T, axis: AxisName | None) -> T:
    """Sums over devices; without an axis the input itself."""
    return tree if axis is None else jax.lax.psum(tree, axis)


def averaged(retain: T, forget: T, axis: AxisName | None, shard_axis: AxisName | None) -> tuple[T, T]:
    """Checks a transform's axes, and averages both gradients over `axis`.

    Raises:
      ValueError: as `check` and `mean`.
    """
    check("axis_name", axis)
    check("shard_axis_name", shard_axis)
    return mean("updates (the retain gradient)", retain, axis), mean("forget_grads", forget, axis)


def mean(name: str, tree: T, axis: AxisName | None) -> T:
    """Means over devices of their own arrays; without an axis the input itself.

    Raises:
      ValueError: if `shard_map` knows that the arrays are the same on all devices: then they are sums, or means already.
    """
    if axis is None:
        return tree
    if _is_tracked(axis) and not all(_varies(x, axis) for x in jax.tree.leaves(tree)):
        raise ValueError(
            f"{name}: got arrays that are the same on every device of axis {axis!r}, expected each device's own. Under "
            "jax.shard_map with check_vma=True the gradient with respect to replicated parameters arrives summed over the "
            f"devices: take it with hamu_jax.paired_value_and_grad(..., axis_name={axis!r}) and leave axis_name out of the "
            "transform, or use check_vma=False"
        )
    return jax.lax.pmean(tree, axis)


def total_of_shards(leaves: list[Array], axis: AxisName | None) -> list[Array]:
    """What each device contributes to a sum over shards: its own shard; what all devices have alike, the first one alone."""
    if axis is None or not _is_tracked(axis):
        return leaves
    first = jax.lax.axis_index(axis) == 0
    return [x if _varies(x, axis) else jnp.where(first, x, jnp.zeros_like(x)) for x in leaves]


def within(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Lets `by_device` know, while tracing, over which devices `jit` splits the work."""
    return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def by_device(function: Callable[[Any, Any], T], size: int) -> Callable[[Any, Any], T]:
    """`function(params, examples)`, for which each device takes its own of `size` independent examples.

    XLA's partitioner silently gives wrong gradients for a convolution that is differentiated for each
    example (`vmap(grad)`) when the examples are split over devices (jax 0.10.2). So the split is made here, on the mesh in
    whose context (`within`, or `jax.set_mesh`) this is traced; parameters are whole on every device meanwhile.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto)
    pieces = math.prod(mesh.shape[name] for name in axes)
    if pieces == 1:
        return function
    split = PartitionSpec(axes) if size % pieces == 0 else PartitionSpec()
    options: dict[str, Any] = {"in_specs": (PartitionSpec(), split), "out_specs": split, "axis_names": set(axes)}
    return jax.shard_map(function, **options, check_vma=False)


def _is_tracked(axis: AxisName) -> bool:
    """Whether the surrounding `shard_map` knows what varies; under `pmap` and `check_vma=False` nothing is known."""
    return bool(_varying(jax.lax.axis_index(axis)))


def _varies(x: Array, axis: AxisName) -> bool:
    """Whether a tracked array differs along all of the axes."""
    return set((axis,) if isinstance(axis, str) else axis) <= _varying(x)


def _varying(x: Array) -> set[str]:
    """The axes along which an array is known to vary (`vma` before jax 0.10)."""
    kind: Any = jax.typeof(x)
    return set(kind.mat.varying if hasattr(kind, "mat") else kind.vma)
