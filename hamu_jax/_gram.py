"""Inner products of gradient pytrees, per block, and the combination that they decide.

Three passes over the gradients make a whole unlearning step: `gram` (inner products), `residual` (the part of one
gradient orthogonal to the other, measured rather than derived) and `combine`. Each is to read a tensor once, with nothing of
the size of the parameters kept between them: `_sums` sees to it where the compiler does not.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hamu_jax._blocks import Partition

Tree: TypeAlias = optax.Params

# Terms that are summed one after the other: sums of more lose digits in float32, and of fewer there are too many.
SHORTEST, LONGEST = 64, 4096
LARGE = 1 << 16  # numbers in a leaf: below, it stays in the cache between passes
LANES = (4, 2)  # sums at a time, as many as the rows' length allows; with 8 the compiler's loop is slower again


class Residual(NamedTuple):
    """Row 0 less its projection on row 1, per block: `(row_0 - first row_1) - second row_1`.

    Attributes:
      first: `[blocks]`, the projection coefficient from the Gram matrix.
      second: `[blocks]`, what a second orthogonalisation adds. It must not be summed with `first`: it is of the size of
        `first`'s rounding error.
      norm: `[blocks]`, the residual's Euclidean norm, measured on the residual itself.
    """

    first: Float[Array, " blocks"]
    second: Float[Array, " blocks"]
    norm: Float[Array, " blocks"]


def accumulation_dtype(*trees: Tree | None) -> Any:
    """The dtype in which sums over `trees` are formed: their widest, float32 at least."""
    widest = max((jnp.dtype(jnp.float32), *(leaf.dtype for leaf in jax.tree.leaves(trees))), key=lambda dtype: dtype.itemsize)
    return jax.dtypes.canonicalize_dtype(widest)


def rounding(tree: Tree) -> float:
    """The unit roundoff of the coarsest dtype in `tree`: below this, an angle between gradients is noise."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree))


def ratio(numerator: Array, denominator: Array) -> Array:
    """A quotient that is 0 where the denominator is."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), 0.0)


def inner_products(left: Tree, right: Tree, partition: Partition) -> Float[Array, " blocks"]:
    """`<left, right>` per block, accumulated in float32 or wider."""
    return _totals(lambda x, y: (x * y,), (left, right), partition)[0]


def gram(rows: Sequence[Tree], partition: Partition) -> Float[Array, "blocks m m"]:
    """Inner products of all pairs of rows, per block, accumulated in float32 or wider."""
    m = range(len(rows))
    pairs = [(i, j) for i in m for j in range(i + 1)]
    totals = _totals(lambda *xs: tuple(xs[i] * xs[j] for i, j in pairs), rows, partition)
    products = dict(zip(pairs, totals, strict=True))
    return jnp.stack([jnp.stack([products[max(i, j), min(i, j)] for j in m], axis=-1) for i in m], axis=-2)


def cross_gram(left: Tree, right: Tree, partition: Partition) -> Float[Array, "blocks k l"]:
    """Inner products of two stacks of rows, `[k, ...]` and `[l, ...]`, per block of one row: matrix products a leaf."""
    dtype = accumulation_dtype(left)
    products = []
    for x, y, stacked in zip(_wide_leaves(left, dtype), _wide_leaves(right, dtype), partition.stacked, strict=True):
        shape = (x.shape[1] if stacked else 1, -1)
        flat = (x.reshape(x.shape[0], *shape), y.reshape(y.shape[0], *shape))
        blocks = jnp.einsum("knp,lnp->nkl", *flat, precision="highest", preferred_element_type=dtype)
        products.append(blocks if stacked else blocks[0])
    return partition.sum(products)


def residual(row: Tree, against: Tree, products: Float[Array, "blocks 2 2"], partition: Partition) -> Residual:
    """Orthogonalises `row` against `against` twice (Gram-Schmidt with one repetition), per block.

    `sqrt(|row|^2 - inner^2/square)` is 100% off in float32 once the angle is below 1e-4, so the norm is taken of the
    residual. One orthogonalisation leaves it orthogonal up to the rounding of `inner/square` only, which at small
    angles is as large as the residual: the leftover is measured in the same pass and removed.

    Args:
      row: the gradient to be decomposed.
      against: the gradient to be projected out, same structure.
      products: their Gram matrix, `row` first.
      partition: the blocks.

    Returns:
      The residual. Where its norm is at most two units of roundoff of `|row|`, the gradients are parallel as far as
      their dtype can tell, and the norm is 0.
    """
    square = products[:, 1, 1]
    first = ratio(products[:, 0, 1], square)

    def sums(x: Array, y: Array, c: Array) -> tuple[Array, Array]:
        once = _less(x, c, y)
        return once * y, once * once

    leftover, squared = _totals(sums, (row, against), partition, first)
    second = ratio(leftover, square)
    norm = jnp.sqrt(jnp.maximum(squared - second * leftover, 0.0))
    noise = 2.0 * rounding((row, against)) * jnp.sqrt(products[:, 0, 0])
    return Residual(first, second, jnp.where(norm > noise, norm, 0.0))


def combine(
    rows: Sequence[Tree],
    coefficients: Float[Array, "blocks m"],
    partition: Partition,
    *,
    orthogonal: tuple[Float[Array, " blocks"], Residual] | None = None,
    keep: Any = True,
    like: int = 0,
) -> Tree:
    """The weighted sum of rows, plus a multiple of the residual of row 0, in each leaf's own dtype.

    Args:
      rows: the gradients.
      coefficients: one a block and row.
      partition: the blocks.
      orthogonal: the coefficient of the residual of row 0 against row 1, per block, and that residual. It is formed
        element by element from both rows; folded into `coefficients` it would cancel catastrophically at small angles.
      keep: a boolean scalar; where it is false the result is zero, whatever the rows hold.
      like: the row whose dtypes the result has.
    """
    dtype = accumulation_dtype(*rows)
    leaves = [_wide_leaves(row, dtype) for row in rows]
    sums = [
        sum(c * x for c, x in zip(weights, xs, strict=True))
        for weights, xs in zip(
            zip(*(partition.spread(coefficients[:, i], leaves[0]) for i in range(len(rows))), strict=True),
            zip(*leaves, strict=True),
            strict=True,
        )
    ]
    if orthogonal is not None:
        scale, parts = orthogonal
        spread = [partition.spread(values, leaves[0]) for values in (scale, parts.first, parts.second)]
        sums = [
            total + s * (_less(x, first, y) - second * y)
            for total, x, y, s, first, second in zip(sums, leaves[0], leaves[1], *spread, strict=True)
        ]
    model, structure = jax.tree.flatten(rows[like])
    return jax.tree.unflatten(
        structure, [jnp.where(keep, x, 0.0).astype(leaf.dtype) for x, leaf in zip(sums, model, strict=True)]
    )


def weighted_rows(
    stacks: Sequence[Tree], coefficients: Float[Array, "blocks rows"], partition: Partition, *, keep: Any = True
) -> Tree:
    """The weighted sum of the rows of several stacks `[k, ...]`, in each leaf's own dtype; zero where `keep` is false."""
    dtype = accumulation_dtype(stacks[0])
    flat = [_wide_leaves(stack, dtype) for stack in stacks]
    like, structure = jax.tree.flatten(stacks[0])
    sums = []
    for leaves, leaf, slot, stacked in zip(zip(*flat, strict=True), like, partition.slots, partition.stacked, strict=True):
        weights = coefficients[jnp.asarray(slot)] if stacked else coefficients[slot[0]]
        begins = [0]
        for x in leaves:
            begins.append(begins[-1] + x.shape[0])
        total = sum(
            jnp.einsum("nk,kn...->n..." if stacked else "k,k...->...", weights[..., a:b], x, precision="highest")
            for x, a, b in zip(leaves, begins, begins[1:], strict=False)
        )
        sums.append(jnp.where(keep, total, 0.0).astype(leaf.dtype))
    return jax.tree.unflatten(structure, sums)


def _wide_leaves(tree: Tree, dtype: Any) -> list[Array]:
    """The leaves of a tree in the accumulation dtype."""
    return [leaf.astype(dtype) for leaf in jax.tree.leaves(tree)]


@jax.custom_jvp
def _less(x: Array, c: Array, y: Array) -> Array:
    """`x - c y`, the same bits wherever it is formed.

    Left to itself the compiler contracts product and difference to one rounding in one kernel and not in another; the
    residual would then not be the one that was measured, and at small angles promises would be broken by more than rounding.
    A product whose last bit was taken away can't be contracted. (`jax.lax.reduce_precision` would round instead, and takes
    more time than the rest.)
    """
    product = c * y
    bits = jnp.dtype(f"uint{8 * product.dtype.itemsize}")
    kept = jax.lax.bitcast_convert_type(product, bits) & jnp.array(jnp.iinfo(bits).max - 1, bits)
    return x - jax.lax.bitcast_convert_type(kept, product.dtype)


@_less.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """That of `x - c y`: bits have none."""
    (_, c, y), (dx, dc, dy) = primals, tangents
    return _less(*primals), dx - dc * y - c * dy


def _totals(
    of: Callable[..., tuple[Array, ...]],
    trees: Sequence[Tree],
    partition: Partition,
    *values: Float[Array, " blocks"],
) -> list[Float[Array, " blocks"]]:
    """Sums over the numbers of every block, in one pass over the trees, accumulated in float32 or wider.

    Args:
      of: what is summed, several functions of numbers: one of each tree, and the block's `values`.
      trees: of one structure.
      partition: the blocks.
      *values: one a block.
    """
    dtype = accumulation_dtype(*trees)
    leaves = [_wide_leaves(tree, dtype) for tree in trees]
    spread = [partition.spread(value, leaves[0]) for value in values]
    sums = [
        _sums(of, xs, cs, stacked=stacked)
        for xs, cs, stacked in zip(
            zip(*leaves, strict=True),
            zip(*spread, strict=True) if spread else [()] * len(leaves[0]),
            partition.stacked,
            strict=True,
        )
    ]
    return [partition.sum(list(one)) for one in zip(*sums, strict=True)]


def _sums(of: Callable[..., tuple[Array, ...]], xs: Sequence[Array], cs: Sequence[Array], *, stacked: bool) -> list[Array]:
    """Sums over a leaf, one a slot: first over rows, all of them by one reduction, then over what is left.

    Of several reductions XLA's CPU compiler makes as many passes, and keeps what they share in memory: an update of 135
    million float32 parameters took 0.45 s and 538 MB on two cores, and took 0.23 s and 5 MB with one reduction a leaf.
    """
    own = 1 if stacked else 0
    lanes = list(zip(*(_lanes(x, own) for x in xs), strict=True))
    if not lanes:
        return [jnp.sum(x, axis=tuple(range(own, x.ndim))) for x in of(*xs, *cs)]
    fitting = [c.reshape(c.shape[:own] + (1,) * (lanes[0][0].ndim - own)) for c in cs]
    products = [of(*lane, *fitting) for lane in lanes]
    rows, count = _along_rows([x for lane in products for x in lane]), len(products[0])
    totals = [functools.reduce(operator.add, rows[i::count]) for i in range(count)]
    return [jnp.sum(x, axis=tuple(range(own, x.ndim))) for x in totals]


@jax.custom_jvp
def _along_rows(arrays: list[Array]) -> list[Array]:
    """Sums along the last axis, in one pass over whatever the arrays are made of."""
    zeros = [jnp.zeros((), x.dtype) for x in arrays]
    return jax.lax.reduce(arrays, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (arrays[0].ndim - 1,))


@_along_rows.defjvp
def _(primals: tuple[list[Array]], tangents: tuple[list[Array]]) -> tuple[list[Array], list[Array]]:
    """Sums again; JAX has no derivative of a reduction with several results."""
    return _along_rows(*primals), [jnp.sum(x, axis=-1) for x in tangents[0]]


def _lanes(x: Array, own: int) -> list[Array]:
    """A large leaf's numbers as rows that are not long, in a few arrays; none of a leaf that is better left as it is.

    A sum of one number after the other waits for every addition; several at a time go on meanwhile. Compilers for other
    devices make one pass of several reductions by themselves; and of several devices each may hold a part of a row.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return []
    count = next((count for count in LANES if x.ndim > own and x.shape[-1] % count == 0), 0)
    if x.size < LARGE or not count or x.shape[-1] < SHORTEST:
        return []
    if x.shape[-1] > LONGEST:
        length = next((size for size in range(LONGEST, SHORTEST - 1, -count) if x.shape[-1] % size == 0), 0)
        if not length:
            return []
        x = x.reshape(*x.shape[:-1], x.shape[-1] // length, length)
    lanes = x.reshape(*x.shape[:-1], x.shape[-1] // count, count)
    return [lanes[..., i] for i in range(count)]
