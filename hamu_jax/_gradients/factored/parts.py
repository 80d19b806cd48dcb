"""The gradients of a part of one parameter for many examples: as factors, or formed.

Both kinds answer the same questions with a leading axis `batch`; `rows` says of which row of the parameter each entry is.
What is asked of factors costs about `t^2 (i + o)` for each pair of examples with `t` positions and `[i, o]` weights, if the
gradients are not formed (Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679; Bu et al., arXiv 2210.00038). Where forming
them is cheaper they are formed, for the examples at hand.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hamu_jax._gradients.factored import factors
from hamu_jax._gradients.factored.factors import Form, OneHot, Pair
from hamu_jax._gradients.factored.uses import Use


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Factored:
    """All uses of the same part of a parameter that have the same roles for its axes.

    Attributes:
      operands: per use, what the equation reads beside the parameter: `[examples, ...]`.
      cotangents: per use, of what it returns: `[examples, ...]`.
      uses: the equations.
      shape: the parameter's.
      form: whether products are taken of factors or of formed gradients.
      dtype: in which sums are accumulated.
    """

    operands: tuple[Array, ...]
    cotangents: tuple[Array, ...]
    uses: tuple[Use, ...] = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    form: Form = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})

    def rows(self, batch: int) -> Int[np.ndarray, " batch"]:
        """Which row of the parameter's leading axis each batch entry is of."""
        layout = self.uses[0].layout
        assert layout.stack is not None, "such a parameter has no rows"
        start, limit = layout.box[layout.stack]
        return np.repeat(np.arange(start, limit), batch // (limit - start))

    def products(self, other: "Factored") -> Float[Array, "batch k l"]:
        """Inner products of all pairs of examples."""
        ours, theirs = self._pairs(), other._pairs()
        if factors.is_formed(self.form, factors.pairwise_costs(ours, theirs)):
            both = factors.formed(ours), factors.formed(theirs)
            return jnp.einsum("kbio,lbio->bkl", *both, **factors.options(self.dtype))
        return _sum(factors.outer(*pairs, self.dtype) for pairs in itertools.product(ours, theirs))

    def squares(self) -> Float[Array, "batch examples"]:
        """Squared norms."""
        pairs = self._pairs()
        if factors.is_formed(self.form, factors.costs(pairs)):
            return jnp.einsum("nbio,nbio->bn", *[factors.formed(pairs)] * 2, **factors.options(self.dtype))

        def of_example(pairs: list[Pair]) -> Array:
            alone = jax.tree.map(lambda x: x[None], pairs)
            return _sum(factors.outer(a, b, self.dtype)[:, 0, 0] for a, b in itertools.product(alone, alone))

        return jax.vmap(of_example, out_axes=1)(pairs)

    def against(self, stack: Float[Array, "k ..."]) -> Float[Array, "batch k examples"]:
        """Inner products with other arrays of the parameter's shape."""
        pairs, matrices = self._pairs(), jax.vmap(self._matrices)(stack.astype(self.dtype))
        options, count = factors.options(self.dtype), matrices.shape[0]
        positions = sum(factors.positions(left) for left, _ in pairs)
        if factors.is_formed(self.form, (count * positions, count + positions)):
            return jnp.einsum("kbio,nbio->bkn", matrices, factors.formed(pairs), **options)

        def of_use(left: factors.Factor, right: factors.Factor) -> Array:
            if isinstance(right, OneHot):
                return jnp.einsum("knbti,nbti->bkn", factors.applied(right, jnp.swapaxes(matrices, -1, -2)), left, **options)
            return jnp.einsum("knbto,nbto->bkn", factors.applied(left, matrices), right, **options)

        return _sum(of_use(*pair) for pair in pairs)

    def weighted_sum(self, weights: Float[Array, "rows examples"]) -> Array:
        """A weighted sum of the gradients, in each row with weights of its own: one matrix product per use.

        An example of weight 0 is left out, even if its factors are NaN.
        """
        pairs, used = self._pairs(), jnp.any(weights != 0, axis=0)
        batch = factors.batch(pairs[0][0])
        of_batch = weights[self.rows(batch)] if weights.shape[0] > 1 else jnp.broadcast_to(weights, (batch, weights.shape[1]))
        return self._parameter(_sum(factors.weighted(pair, of_batch, used) for pair in pairs))

    def _pairs(self) -> list[Pair]:
        """The left and the right factor of each use, `[examples, batch, positions, size]`."""
        each = zip(self.uses, self.operands, self.cotangents, strict=True)
        return [factors.wide(jax.vmap(use.factors)(x, delta), self.dtype) for use, x, delta in each]

    def _matrices(self, parameter: Array) -> Float[Array, "batch left right"]:
        """The part of a parameter-shaped array that the uses read, as they read it."""
        use = self.uses[0]
        return use.roles().matrices(use.layout.select(parameter))

    def _parameter(self, matrices: Float[Array, "batch left right"]) -> Array:
        """The adjoint of `_matrices`: an array of the parameter's shape, 0 where the uses do not read it."""
        (whole,) = jax.linear_transpose(self._matrices, jax.ShapeDtypeStruct(self.shape, matrices.dtype))(matrices)
        return whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Formed:
    """The gradients of a parameter as autodiff forms them.

    Attributes:
      gradients: `[examples, ...]`.
      stacked: whether `batch` is the parameter's leading axis.
      dtype: in which sums are accumulated.
    """

    gradients: Float[Array, "examples ..."]
    stacked: bool = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})

    def rows(self, batch: int) -> Int[np.ndarray, " batch"]:
        """As `Factored.rows`."""
        return np.arange(batch)

    def products(self, other: "Formed") -> Float[Array, "batch k l"]:
        """As `Factored.products`."""
        both = self._flat(self.gradients), self._flat(other.gradients)
        return jnp.einsum("knp,lnp->nkl", *both, **factors.options(self.dtype))

    def squares(self) -> Float[Array, "batch examples"]:
        """As `Factored.squares`."""
        return jnp.einsum("knp,knp->nk", *[self._flat(self.gradients)] * 2, **factors.options(self.dtype))

    def against(self, stack: Float[Array, "k ..."]) -> Float[Array, "batch k examples"]:
        """As `Factored.against`."""
        return jnp.einsum("knp,lnp->nkl", self._flat(stack), self._flat(self.gradients), **factors.options(self.dtype))

    def weighted_sum(self, weights: Float[Array, "rows examples"]) -> Array:
        """As `Factored.weighted_sum`."""
        flat = jnp.where(jnp.any(weights != 0, axis=0)[:, None, None], self._flat(self.gradients), 0)
        return jnp.einsum("nk,knp->np", weights, flat, precision="highest").reshape(self.gradients.shape[1:])

    def _flat(self, stack: Array) -> Float[Array, "examples batch numbers"]:
        """Every row as a vector, in the accumulation dtype."""
        return stack.astype(self.dtype).reshape(stack.shape[0], stack.shape[1] if self.stacked else 1, -1)


def key(use: Use) -> Any:
    """What uses must agree on to be of one part."""
    return use.layout.reshapes, use.layout.box, use.layout.stack, use.roles()


def is_of_rows(use: Use) -> bool:
    """Whether each batch entry of the use is of one row of the parameter's leading axis, in their order."""
    stack, roles = use.layout.stack, use.roles()
    if stack is None:
        return False
    start, limit = use.layout.box[stack]
    return limit - start == 1 or (stack in roles.batch and stack == min(roles.batch))


def _sum(terms: Any) -> Array:
    """A sum of arrays, of which there is at least one."""
    return sum(terms)  # pyright: ignore[reportReturnType]
