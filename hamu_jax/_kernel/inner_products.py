"""Inner products of gradient pytrees, per block, and the combination that they decide.

Three passes over the gradients make a whole unlearning step: `gram` (inner products), `residual` (the part of one
gradient orthogonal to the other, measured rather than derived) and `combine_rows`. Each reads a tensor
once and keeps nothing of the size of the parameters; where the compiler would not do so, `cpu_reductions` does.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hamu_jax._kernel.blocks import Partition
from hamu_jax._kernel.cpu_reductions import sums_of_leaf

Tree: TypeAlias = optax.Params


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
    """Inner products of two stacks of rows, `[k, ...]` and `[l, ...]`, per block of one row: matrix products per leaf."""
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
      The residual. Where its norm is at most two units of roundoff of `|row|`, the gradients count as parallel and the norm
      is 0.
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


def combine_rows(
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
      coefficients: one per block and row.
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

    Otherwise the compiler contracts product and difference to one rounding in one kernel and not in another: the residual
    would differ from the one that was measured, and at small angles promises would be broken by more than rounding. A product
    whose last bit is cleared can't be contracted. (`jax.lax.reduce_precision` would round instead, and takes more time than
    the rest.)
    """
    product = c * y
    bits = jnp.dtype(f"uint{8 * product.dtype.itemsize}")
    truncated = jax.lax.bitcast_convert_type(product, bits) & jnp.array(jnp.iinfo(bits).max - 1, bits)
    return x - jax.lax.bitcast_convert_type(truncated, product.dtype)


@_less.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """The derivative of `x - c y`; clearing the last bit does not change it."""
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
      *values: one per block.
    """
    dtype = accumulation_dtype(*trees)
    leaves = [_wide_leaves(tree, dtype) for tree in trees]
    spread = [partition.spread(value, leaves[0]) for value in values]
    sums = [
        sums_of_leaf(of, xs, cs, stacked=stacked)
        for xs, cs, stacked in zip(
            zip(*leaves, strict=True),
            zip(*spread, strict=True) if spread else [()] * len(leaves[0]),
            partition.stacked,
            strict=True,
        )
    ]
    return [partition.sum(list(values)) for values in zip(*sums, strict=True)]
