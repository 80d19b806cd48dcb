"""How an equation sees a parameter: through slices, transpositions, reshapes, casts and scans."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array

Box: TypeAlias = tuple[tuple[int, int], ...]

_CASTS = ("convert_element_type", "copy", "copy_p", "name", "sharding_constraint")


@dataclasses.dataclass(frozen=True)
class Reshape:
    """A reshape that merges or splits axes: a box of an array, its axes in another order, as another shape."""

    box: Box
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, x: Array) -> Array:
        """Applies it."""
        return jnp.transpose(x[_slices(self.box)], self.order).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What an equation's operand shows of a parameter: a box of it, with its axes in some order.

    Attributes:
      leaf: the parameter's number.
      reshapes: the parameter is reshaped by these first; axes below are those of the result.
      box: `(start, limit)` for each axis.
      axes: for each axis of the operand, the axis of the parameter that it is; None for an inserted axis of size 1.
      scanned: for each scan around the equation, outermost first, the parameter's axis over which it runs; None if every
        iteration sees the same numbers.
      stack: which axis is the parameter's leading axis; None if a reshape merged or split that.
    """

    leaf: int
    reshapes: tuple[Reshape, ...]
    box: Box
    axes: tuple[int | None, ...]
    scanned: tuple[int | None, ...] = ()
    stack: int | None = 0

    def select(self, x: Array) -> Array:
        """The box of a parameter-shaped array, with the parameter's axes in order."""
        for reshape in self.reshapes:
            x = reshape(x)
        return x[_slices(self.box)]

    def constant_in_scan(self) -> "Layout":
        """The layout inside a scan whose iterations all see this operand."""
        return dataclasses.replace(self, scanned=(*self.scanned, None))

    def mapped_by_scan(self) -> "Layout | None":
        """The layout inside a scan over the operand's leading axis; None if that axis was inserted."""
        if self.axes[0] is None:
            return None
        return dataclasses.replace(self, axes=self.axes[1:], scanned=(*self.scanned, self.axes[0]))

    def is_disjoint(self, other: "Layout") -> bool:
        """Whether it is certain that no number of the parameter is in both."""
        if self.reshapes != other.reshapes:
            return False
        return any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(self.box, other.box, strict=True))


def whole(leaf: int, shape: Sequence[int]) -> Layout:
    """The layout of a parameter as it is."""
    return Layout(leaf, (), tuple((0, size) for size in shape), tuple(range(len(shape))))


def carried(layout: Layout, eqn: JaxprEqn) -> Layout | None:  # noqa: PLR0911  (one result per kind of equation)
    """The layout of an equation's result if that holds the operand's numbers and nothing else; None otherwise."""
    name, params = eqn.primitive.name, eqn.params
    after = eqn.outvars[0].aval.shape  # pyright: ignore[reportAttributeAccessIssue]
    if name in _CASTS:
        return layout
    if name == "transpose":
        return dataclasses.replace(layout, axes=tuple(layout.axes[i] for i in params["permutation"]))
    if name == "squeeze":
        axes = tuple(axis for i, axis in enumerate(layout.axes) if i not in params["dimensions"])
        return dataclasses.replace(layout, axes=axes)
    if name == "slice" and all(stride == 1 for stride in params["strides"] or ()):
        return _sliced(layout, params["start_indices"], params["limit_indices"])
    if name == "broadcast_in_dim":
        return _broadcast(layout, eqn.invars[0].aval.shape, after, params["broadcast_dimensions"])  # pyright: ignore[reportAttributeAccessIssue]
    if name == "reshape" and params["dimensions"] is None:
        return _reshaped(layout, eqn.invars[0].aval.shape, after)  # pyright: ignore[reportAttributeAccessIssue]
    return None


def arrange(x: Array, labels: Sequence[tuple[int, int]], roles: int) -> Array:
    """Orders the axes of `x` by their labels `(role, rank)`, and merges those of one role: an array of `roles` axes.

    Args:
      x: any array.
      labels: for each of its axes, the role (0 to `roles - 1`) and the rank in this role.
      roles: the number of roles; one that no axis has becomes an axis of size 1.
    """
    order = sorted(range(x.ndim), key=lambda i: labels[i])
    sizes = [math.prod(x.shape[i] for i in order if labels[i][0] == role) for role in range(roles)]
    return jnp.transpose(x, order).reshape(sizes)


def _slices(box: Box) -> Any:
    """A box as an index."""
    return tuple(slice(*bounds) for bounds in box)


def _sliced(layout: Layout, starts: Sequence[int], limits: Sequence[int]) -> Layout:
    """A smaller box."""
    box = list(layout.box)
    for axis, start, limit in zip(layout.axes, starts, limits, strict=True):
        if axis is not None:
            box[axis] = (box[axis][0] + start, box[axis][0] + limit)
    return dataclasses.replace(layout, box=tuple(box))


def _broadcast(layout: Layout, before: Sequence[int], after: Sequence[int], kept: Sequence[int]) -> Layout | None:
    """Inserted axes of size 1; None if any number is repeated."""
    if math.prod(before) != math.prod(after):
        return None
    axes: list[int | None] = [None] * len(after)
    for axis, position in zip(layout.axes, kept, strict=True):
        axes[position] = axis
    return dataclasses.replace(layout, axes=tuple(axes))


def _reshaped(layout: Layout, before: Sequence[int], after: Sequence[int]) -> Layout | None:
    """A reshape: inserted or removed axes of size 1, or axes merged and split, which get new names."""
    wide = [axis for axis, size in zip(layout.axes, before, strict=True) if size != 1]
    if [size for size in before if size != 1] == [size for size in after if size != 1]:
        remaining = iter(wide)
        return dataclasses.replace(layout, axes=tuple(None if size == 1 else next(remaining) for size in after))
    mapped = [axis for axis in layout.scanned if axis is not None]
    shown = [*mapped, *(axis for axis in wide if axis is not None)]
    order = (*shown, *(axis for axis in range(len(layout.box)) if axis not in shown))  # the rest is of size 1
    sizes = [layout.box[axis][1] - layout.box[axis][0] for axis in mapped]
    shape = (*sizes, *after)
    names = iter(range(len(mapped)))
    return Layout(
        leaf=layout.leaf,
        reshapes=(*layout.reshapes, Reshape(layout.box, order, shape)),
        box=tuple((0, size) for size in shape),
        axes=tuple(range(len(mapped), len(shape))),
        scanned=tuple(None if axis is None else next(names) for axis in layout.scanned),
        stack=mapped.index(layout.stack) if layout.stack in mapped else None,
    )
