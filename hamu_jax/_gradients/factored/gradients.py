"""Every example's gradient, as factors where a parameter's equations have them, and formed otherwise."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float

from hamu_jax._base import device_axes, validate
from hamu_jax._base.key_paths import path_name
from hamu_jax._gradients.factored.evaluate import at, evaluate, wanted, zeros
from hamu_jax._gradients.factored.factors import Form
from hamu_jax._gradients.factored.parts import Factored, Formed, is_of_rows, key
from hamu_jax._gradients.factored.trace import Reading, read
from hamu_jax._gradients.factored.uses import Use
from hamu_jax._gradients.losses import Batch, Loss, per_example
from hamu_jax._kernel.blocks import Partition
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype

How: TypeAlias = Form | Literal["differentiated"]
"""From what inner products are taken: factors ("outer"), gradients formed of them, or those that autodiff forms."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gradients:
    """The gradients of many examples' losses.

    Attributes:
      losses: `[examples]`.
      leaves: the parts of every parameter; none for one that the loss does not use.
      dtype: in which sums are accumulated.
    """

    losses: Float[Array, " examples"]
    leaves: tuple[tuple[Factored | Formed, ...], ...]
    dtype: Any = dataclasses.field(metadata={"static": True})

    def products(self, other: "Gradients", partition: Partition) -> Float[Array, "blocks k l"]:
        """Inner products of all examples with all of another microbatch."""
        of_other = iter(itertools.chain.from_iterable(other.leaves))
        shape = (self.losses.size, other.losses.size)
        return self._per_block(lambda part: part.products(next(of_other)), shape, partition)  # pyright: ignore[reportArgumentType]

    def squares(self, partition: Partition) -> Float[Array, "blocks examples"]:
        """Squared norms."""
        return self._per_block(lambda part: part.squares(), self.losses.shape, partition)

    def against(self, stack: Tree, partition: Partition) -> Float[Array, "blocks k examples"]:
        """Inner products with the rows of a stack `[k, ...]` of trees like the parameters."""
        rows = jax.tree.leaves(stack)
        of_part = iter([leaf for leaf, parts in zip(rows, self.leaves, strict=True) for _ in parts])
        return self._per_block(lambda part: part.against(next(of_part)), (rows[0].shape[0], self.losses.size), partition)

    def weighted_sum(self, weights: Float[Array, "blocks examples"], params: Tree, partition: Partition) -> Tree:
        """The sum of the gradients with a weight per block and example, in float32 or wider; a weight of 0 silences a NaN."""
        leaves, structure = jax.tree.flatten(params)
        dtype = accumulation_dtype(params)
        sums: list[Array] = []
        for leaf, parts, slot in zip(leaves, self.leaves, partition.slots, strict=True):
            total = jnp.zeros(leaf.shape, dtype)
            for part in parts:
                total = total + part.weighted_sum(weights[jnp.asarray(slot)].astype(dtype))
            sums.append(total)
        return jax.tree.unflatten(structure, sums)

    def _per_block(
        self, of_part: Callable[[Any], Array], shape: tuple[int, ...], partition: Partition
    ) -> Float[Array, "blocks ..."]:
        """Sums of what each part gives, `[batch, *shape]`; plain additions, since a scatter takes longer than the products."""
        sums: list[Array] = [jnp.zeros(shape, self.dtype)] * len(partition.labels)
        for parts, slot, stacked in zip(self.leaves, partition.slots, partition.stacked, strict=True):
            for part in parts:
                batch = of_part(part)
                rows = part.rows(batch.shape[0]) if stacked else [0] * batch.shape[0]
                for block in dict.fromkeys(slot):
                    entries = [i for i, row in enumerate(rows) if slot[row] == block]
                    if entries:
                        share = batch if len(entries) == batch.shape[0] else batch[np.asarray(entries)]
                        sums[block] = sums[block] + jnp.sum(share, axis=0)
        return jnp.stack(sums)


def example_gradients(loss: Loss, params: Tree, batch: Batch, partition: Partition, how: How = "cheapest") -> Gradients:
    """All gradients of a batch at once: one forward pass, and one backward pass without the gradients of weight matrices."""

    def each(params: Tree, examples: Batch) -> Gradients:
        plan = _plan(loss, params, examples, partition, how)
        return jax.vmap(lambda example: plan.run(params, example))(examples)

    return device_axes.by_device(each, validate.batch("batch", batch))(params, batch)


def explain(loss: Loss, params: Tree, batch: Batch, partition: Partition) -> str:
    """What the per-example gradients of each parameter are made of, one line each, in words."""
    plan = _plan(loss, params, batch, partition, "cheapest")
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return "\n".join(f"{path}: {plan.words(leaf)}" for leaf, path in enumerate(paths))


class _Plan(NamedTuple):
    """How the gradients of a loss are had.

    Attributes:
      jaxpr: of one example's loss.
      parts: the uses of every part of every parameter.
      formed: the parameters whose gradients autodiff forms, and why.
      stacked: of each parameter, whether its leading axis counts blocks.
      form: as in `Factored`.
    """

    jaxpr: ClosedJaxpr
    parts: list[list[tuple[Use, ...]]]
    formed: dict[int, str]
    stacked: tuple[bool, ...]
    form: Form

    def run(self, params: Tree, example: Batch) -> Gradients:
        """The gradient of one example; arrays have no axis of examples."""
        leaves, dtype = jax.tree.leaves(params), accumulation_dtype(params)
        uses = [use for parts in self.parts for part in parts for use in part]
        tree = wanted([(use.path, use.read) for use in uses])
        start = zeros(self.jaxpr.jaxpr, tree), {leaf: leaves[leaf] for leaf in self.formed}

        def perturbed(added: Any, formed: dict[int, Array]) -> tuple[Array, Any]:
            arguments = [formed.get(i, leaf) for i, leaf in enumerate(leaves)] + jax.tree.leaves(example)
            (value,), operands = evaluate(self.jaxpr.jaxpr, self.jaxpr.consts, arguments, tree, added)
            return value, operands

        value, pull_back, operands = jax.vjp(perturbed, *start, has_aux=True)
        cotangents, gradients = pull_back(jnp.ones_like(value))

        def factored(leaf: int, uses: tuple[Use, ...]) -> Factored:
            read = tuple(at(operands, (*use.path, use.read)) for use in uses)
            returned = tuple(at(cotangents, use.path) for use in uses)
            return Factored(read, returned, uses, leaves[leaf].shape, self.form, dtype)

        return Gradients(
            value,
            tuple(
                (Formed(gradients[leaf], self.stacked[leaf], dtype),)
                if leaf in self.formed
                else tuple(factored(leaf, uses) for uses in parts)
                for leaf, parts in enumerate(self.parts)
            ),
            dtype,
        )

    def words(self, leaf: int) -> str:
        """How one parameter's gradients are had."""
        if leaf in self.formed:
            return f"formed ({self.formed[leaf]})"
        kinds = [type(use).__name__ for part in self.parts[leaf] for use in part]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return f"factored ({counts})" if kinds else "unused"


def _plan(loss: Loss, params: Tree, batch: Batch, partition: Partition, how: How) -> _Plan:
    """Traces the loss of one example, and chooses for every parameter."""

    def of_example(params: Tree, example: Batch) -> Array:
        return per_example(loss, params, jax.tree.map(lambda x: x[None], example), 1, "one example of the batch")[0]

    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    jaxpr = jax.make_jaxpr(of_example)(params, example)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    reading = read(jaxpr.jaxpr, shapes)
    if how == "differentiated":
        return _Plan(jaxpr, [[] for _ in shapes], dict.fromkeys(range(len(shapes)), "asked for"), partition.stacked, "formed")
    parts: list[list[tuple[Use, ...]]] = []
    formed: dict[int, str] = {}
    for leaf, stacked in enumerate(partition.stacked):
        of_leaf = _parts(reading, leaf, stacked=stacked)
        parts.append([] if isinstance(of_leaf, str) else of_leaf)
        if isinstance(of_leaf, str):
            formed[leaf] = of_leaf
    return _Plan(jaxpr, parts, formed, partition.stacked, how)


def _parts(reading: Reading, leaf: int, *, stacked: bool) -> list[tuple[Use, ...]] | str:
    """The uses of a parameter by its parts; or why there are none."""
    if leaf in reading.others:
        return reading.others[leaf]
    uses = reading.uses.get(leaf, [])
    if stacked and not all(map(is_of_rows, uses)):
        return "its leading axis counts blocks, and is an axis of a matrix"
    parts: dict[Any, list[Use]] = {}
    for use in uses:
        parts.setdefault(key(use), []).append(use)
    for one, other in itertools.combinations(parts.values(), 2):
        if not one[0].layout.is_disjoint(other[0].layout):
            return "uses of the same numbers in several shapes"
    return [tuple(part) for part in parts.values()]
