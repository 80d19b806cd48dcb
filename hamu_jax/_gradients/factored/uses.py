"""The equations whose derivative by a parameter is a sum of outer products: matrix products, convolutions, look-ups.

For such a use the gradient of an example is `sum_t left_t right_t^T` per batch entry of the weight, where one factor is what
the equation reads beside the parameter and the other is the cotangent of what it returns. `Use.factors` brings both to the form
`[batch, positions, size]` whatever the equation's dimension numbers are (Goodfellow, arXiv 1510.01799).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.lax import ConvDimensionNumbers, GatherScatterMode
from jaxtyping import Array, Float

from hamu_jax._gradients.factored.factors import Factor, OneHot
from hamu_jax._gradients.factored.layout import Layout, arrange

Path: TypeAlias = tuple[int, ...]  # numbers of equations and branches, from the outermost jaxpr inwards
Label: TypeAlias = tuple[int, int]

BATCH, POSITION, SIZE = range(3)  # the roles of a factor's axes
_UNIT = (BATCH, -1)  # an axis of size 1, wherever it is
_CONVOLUTION_GROUP = 1 << 20  # the rank of a grouped convolution's groups: after all axes of the parameter


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which axes of a parameter are batch axes of the use, which are the left factor's, and which the right one's.

    Attributes:
      batch: axes, ascending.
      left: likewise; of both factors the one with the first axis.
      right: likewise.
      groups: of a convolution: the last axis of `outputs` is split into so many batch entries.
      outputs: that axis; None for anything but a grouped convolution.
    """

    batch: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    groups: int = 1
    outputs: int | None = None

    def matrices(self, part: Array) -> Float[Array, "batch left right"]:
        """The numbers of a parameter (`Layout.select`) as the outer products have them."""
        labels = [(0, -1)] * part.ndim
        for role, axes in enumerate((self.batch, self.left, self.right)):
            for axis in axes:
                labels[axis] = (role, axis)
        if self.outputs is not None:
            shape = part.shape
            part = part.reshape(*shape[: self.outputs], self.groups, -1, *shape[self.outputs + 1 :])
            labels.insert(self.outputs, (0, _CONVOLUTION_GROUP))
        return arrange(part, labels, 3)


@dataclasses.dataclass(frozen=True)
class Use:
    """An equation that reads a parameter, seen from there.

    Attributes:
      layout: what the operand shows of the parameter.
      path: which equation.
      operand: the number of the operand that is the parameter.
      read: the number of the operand that makes the other factor.
    """

    layout: Layout
    path: Path
    operand: int
    read: int

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The parameter's axes in the batch, in the operand's factor, and in the cotangent's factor."""
        raise NotImplementedError

    def pair(self, x: Array, delta: Array) -> tuple[Factor, Float[Array, "batch positions size"]]:
        """The factors of one example: that of the operand `read`, and that of the result's cotangent."""
        raise NotImplementedError

    def roles(self) -> Roles:
        """What the parameter's axes are to its use."""
        batch, of_operand, of_cotangent = (tuple(sorted(axes)) for axes in self.axes())
        left, right = (of_cotangent, of_operand) if self._swapped() else (of_operand, of_cotangent)
        return Roles(batch, left, right)

    def factors(self, x: Array, delta: Array) -> tuple[Factor, Factor]:
        """The left and the right factor of one example."""
        of_operand, of_cotangent = self.pair(x, delta)
        return (of_cotangent, of_operand) if self._swapped() else (of_operand, of_cotangent)

    def _swapped(self) -> bool:
        """Whether the cotangent's factor is the left one."""
        _, of_operand, of_cotangent = self.axes()
        return bool(of_cotangent) and (not of_operand or min(of_cotangent) < min(of_operand))

    def _scan_labels(self) -> list[Label]:
        """The labels of the leading axes that scans add to everything inside them."""
        depth, scanned = len(self.layout.scanned), self.layout.scanned
        return [(POSITION, i - depth) if axis is None else (BATCH, axis) for i, axis in enumerate(scanned)]

    def _named(self, positions: Sequence[int]) -> tuple[int, ...]:
        """The parameter's axes at some positions of the operand; inserted ones are left out."""
        names = (self.layout.axes[i] for i in positions)
        return tuple(axis for axis in names if axis is not None)

    def _batch_of_scans(self) -> tuple[int, ...]:
        return tuple(axis for axis in self.layout.scanned if axis is not None)

    def _labels(self, role: int, positions: Sequence[int]) -> list[Label]:
        """The labels of axes that a factor shares with the parameter."""
        names = [self.layout.axes[i] for i in positions]
        return [_UNIT if axis is None else (role, axis) for axis in names]


@dataclasses.dataclass(frozen=True)
class MatrixProduct(Use):
    """A `dot_general`.

    Attributes:
      contracted: positions of the parameter's contracted axes, and of the other operand's.
      batched: likewise.
    """

    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batched: tuple[tuple[int, ...], tuple[int, ...]]
    rank: int  # of the other operand

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """As `Use` says."""
        batch = (*self._batch_of_scans(), *self._named(self.batched[0]))
        return batch, self._named(self.contracted[0]), self._named(self._free())

    def pair(self, x: Array, delta: Array) -> tuple[Factor, Float[Array, "batch positions size"]]:
        """As `Use` says."""
        batch = self._labels(BATCH, self.batched[0])
        x_free = [i for i in range(self.rank) if i not in (*self.contracted[1], *self.batched[1])]
        labels: dict[int, Label] = {i: (POSITION, i) for i in x_free}
        labels |= dict(zip(self.batched[1], batch, strict=True))
        labels |= dict(zip(self.contracted[1], self._labels(SIZE, self.contracted[0]), strict=True))
        free = [[(POSITION, i) for i in x_free], self._labels(SIZE, self._free())]
        lhs, rhs = free if self.operand == 1 else free[::-1]
        scans = self._scan_labels()
        left = arrange(x, [*scans, *(labels[i] for i in range(self.rank))], 3)
        return left, arrange(delta, [*scans, *batch, *lhs, *rhs], 3)

    def _free(self) -> list[int]:
        """The positions of the parameter's free axes."""
        return [i for i in range(len(self.layout.axes)) if i not in (*self.contracted[0], *self.batched[0])]


@dataclasses.dataclass(frozen=True)
class Convolution(Use):
    """A `conv_general_dilated` whose kernel is the parameter: a matrix product with the patches of its input.

    Attributes:
      numbers: as in `jax.lax`.
      window: the kernel's sizes in space.
      strides: as in `jax.lax`, as are the following.
      padding: likewise.
      lhs_dilation: likewise.
      rhs_dilation: likewise.
      groups: `feature_group_count`.
    """

    numbers: ConvDimensionNumbers
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """As `Use` says."""
        outputs, inputs, *around = self.numbers.rhs_spec
        return self._batch_of_scans(), self._named([inputs, *around]), self._named([outputs])

    def roles(self) -> Roles:
        """As `Use` says, with the convolution's groups."""
        outputs = self.axes()[2][0] if self.groups > 1 else None
        return dataclasses.replace(super().roles(), groups=self.groups, outputs=outputs)

    def pair(self, x: Array, delta: Array) -> tuple[Factor, Float[Array, "batch positions size"]]:
        """As `Use` says."""
        outputs, inputs, *around = self.numbers.rhs_spec
        positions = [*self._scan_labels(), *((POSITION, i) for i in range(1 + len(around)))]
        group = (BATCH, _CONVOLUTION_GROUP)
        channels, features = ([group, *self._labels(SIZE, [i])] for i in (inputs, outputs))
        patches = self._patches(self._split(x, self.numbers.lhs_spec))
        left = arrange(patches, [*positions, *self._labels(SIZE, around), *channels], 3)
        return left, arrange(self._split(delta, self.numbers.out_spec), [*positions, *features], 3)

    def _split(self, x: Array, spec: Sequence[int]) -> Array:
        """`[scans, batch, space, groups, channels]`, from any order of axes."""
        batch, channel, *space = spec
        depth = len(self.layout.scanned)
        x = jnp.transpose(x, [*range(depth), *(depth + i for i in (batch, *space, channel))])
        return x.reshape(*x.shape[:-1], self.groups, -1)

    def _patches(self, images: Array) -> Array:
        """The numbers under the window at each of its positions: `[scans, batch, positions, window, groups, channels]`."""
        first = len(self.layout.scanned) + 1
        space = range(first, first + len(self.window))
        padding = [(0, 0, 0)] * images.ndim
        for axis, (low, high), dilation in zip(space, self.padding, self.lhs_dilation, strict=True):
            padding[axis] = (low, high, dilation - 1)
        padded = jax.lax.pad(images, jnp.zeros([], images.dtype), padding)
        steps = tuple(zip(space, self.window, self.strides, self.rhs_dilation, strict=True))
        pieces = []
        for offsets in itertools.product(*map(range, self.window)):
            index = [slice(None)] * images.ndim
            for (axis, size, stride, dilation), offset in zip(steps, offsets, strict=True):
                last = padded.shape[axis] - dilation * (size - 1 - offset)
                index[axis] = slice(offset * dilation, last, stride)
            pieces.append(padded[tuple(index)])
        after = space.stop
        stacked = jnp.stack(pieces, axis=after)
        return stacked.reshape(*stacked.shape[:after], *self.window, *stacked.shape[after + 1 :])


@dataclasses.dataclass(frozen=True)
class LookUp(Use):
    """A `gather` of whole rows of the parameter, along any axis.

    Attributes:
      along: the position of that axis.
      length: its size.
      offsets: which axes of the result are axes of the parameter.
      clipped: whether an index beyond the parameter is the last one's; its cotangent is 0 otherwise.
    """

    along: int
    length: int
    offsets: tuple[int, ...]
    clipped: bool

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """As `Use` says."""
        return self._batch_of_scans(), self._named([self.along]), self._named(self._rest())

    def pair(self, x: Array, delta: Array) -> tuple[Factor, Float[Array, "batch positions size"]]:
        """As `Use` says."""
        scans = self._scan_labels()
        rest = iter(self._labels(SIZE, self._rest()))
        rank = delta.ndim - len(scans)
        labels = [next(rest) if i in self.offsets else (POSITION, i) for i in range(rank)]
        index = arrange(x[..., 0], [*scans, *((POSITION, i) for i in range(x.ndim - 1 - len(scans)))], 2)
        right = arrange(delta, [*scans, *labels], 3)
        if not self.clipped:
            right = jnp.where(((index >= 0) & (index < self.length))[..., None], right, 0)
        return OneHot(jnp.clip(index, 0, self.length - 1), self.length), right

    def _rest(self) -> list[int]:
        """The positions of the axes that are taken whole."""
        return [i for i in range(len(self.layout.axes)) if i != self.along]


def use_of(eqn: JaxprEqn, operand: int, layout: Layout, path: Path) -> Use | None:
    """What an equation's operand, which shows a parameter, is to the equation; None if nothing of the kind above."""
    name, params = eqn.primitive.name, eqn.params
    shapes: list[tuple[int, ...]] = [atom.aval.shape for atom in eqn.invars]  # pyright: ignore[reportAttributeAccessIssue]
    if name == "dot_general":
        other = 1 - operand
        contracted, batched = ((tuple(sides[operand]), tuple(sides[other])) for sides in params["dimension_numbers"])
        return MatrixProduct(layout, path, operand, other, contracted, batched, len(shapes[other]))
    if name == "conv_general_dilated" and operand == 1 and params["batch_group_count"] == 1:
        numbers = params["dimension_numbers"]
        outputs, _, *around = numbers.rhs_spec
        if layout.axes[outputs] is None and params["feature_group_count"] > 1:
            return None
        return Convolution(
            layout,
            path,
            operand,
            0,
            numbers=numbers,
            window=tuple(shapes[1][i] for i in around),
            strides=tuple(params["window_strides"]),
            padding=tuple(params["padding"]),
            lhs_dilation=tuple(params["lhs_dilation"]),
            rhs_dilation=tuple(params["rhs_dilation"]),
            groups=params["feature_group_count"],
        )
    if name == "gather" and operand == 0 and _takes_rows(eqn, shapes[0]):
        numbers = params["dimension_numbers"]
        (along,) = numbers.start_index_map
        if layout.axes[along] is not None:
            clipped = params["mode"] == GatherScatterMode.CLIP
            return LookUp(layout, path, operand, 1, along, shapes[0][along], tuple(numbers.offset_dims), clipped)
    return None


def _takes_rows(eqn: JaxprEqn, shape: tuple[int, ...]) -> bool:
    """Whether a gather takes whole rows along one axis."""
    numbers = eqn.params["dimension_numbers"]
    along = numbers.start_index_map
    rows = tuple(1 if i in along else size for i, size in enumerate(shape))
    plain = len(along) == 1 and numbers.collapsed_slice_dims == along and not numbers.operand_batching_dims
    return plain and tuple(eqn.params["slice_sizes"]) == rows
