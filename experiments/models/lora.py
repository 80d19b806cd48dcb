"""Low-rank adapters (LoRA, arXiv 2106.09685): few trainable parameters beside frozen weights.

An adapter is a pytree of its own, `{"q": {"a": [layers, inputs, rank], "b": [layers, rank, outputs]}, ...}`: it is what is
trained, unlearned and saved. Layers are stacked on the leading axis; `blocks` tells hamu_jax so.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hamu_jax import Stacked

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")

Adapter: TypeAlias = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """An adapter's settings. The defaults are those of HAMU's language experiments.

    Attributes:
      rank: of the change of every adapted matrix.
      alpha: the change is scaled by `alpha / rank`.
      dropout: the probability with which an input of the change is dropped, while training with a key.
      targets: which linear maps are adapted, names in `TARGETS`.

    Raises:
      ValueError: for a rank below 1, a dropout outside of [0, 1), or an unknown or repeated target, or none.

    >>> LoraConfig(rank=4).scale
    4.0
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: got {self.rank}, expected a positive integer")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: got {self.dropout}, expected a number of at least 0 and below 1")
        if not self.targets or len(set(self.targets)) < len(self.targets) or not set(self.targets) <= set(TARGETS):
            raise ValueError(f"targets: got {self.targets}, expected one or more of {', '.join(TARGETS)}")

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / self.rank


def init(config: LoraConfig, weights: Any, key: Key[Array, ""], *, dtype: Any = jnp.float32) -> Adapter:
    """A new adapter, which changes nothing yet: B is zero, A is uniform in `+-1/sqrt(inputs)`, as PEFT has it.

    Args:
      config: its settings.
      weights: the model's, or their shapes (`llama.abstract`).
      key: of the draws.
      dtype: of the adapter.

    Returns:
      For every target `a` `[layers, inputs, rank]` and `b` `[layers, rank, outputs]`.
    """
    adapter: Adapter = {}
    for name, own in zip(config.targets, jax.random.split(key, len(config.targets)), strict=True):
        layers, inputs, outputs = weights["layers"][name]["kernel"].shape
        bound = 1.0 / math.sqrt(inputs)  # Kaiming's uniform distribution with a = sqrt(5)
        a = jax.random.uniform(own, (layers, inputs, config.rank), dtype, -bound, bound)
        adapter[name] = {"a": a, "b": jnp.zeros((layers, config.rank, outputs), dtype)}
    return adapter


def change(
    config: LoraConfig, own: Mapping[str, Array], x: Float[Array, "*batch inputs"], key: Key[Array, ""] | None = None
) -> Float[Array, "*batch outputs"]:
    """What one layer's adapter adds to a linear map's output: `(alpha / rank) dropout(x) A B`. No dropout without a key."""
    if key is not None and config.dropout > 0.0:
        undropped = jax.random.bernoulli(key, 1.0 - config.dropout, x.shape)
        x = jnp.where(undropped, x / jnp.asarray(1.0 - config.dropout, x.dtype), jnp.zeros((), x.dtype))
    # Two axes: of three, XLA's CPU compiler copies the outputs' gradient into another order, a fifth of a gradient's time.
    flat = x.reshape(-1, x.shape[-1])
    added = flat @ own["a"].astype(x.dtype) @ own["b"].astype(x.dtype) * jnp.asarray(config.scale, x.dtype)
    return added.reshape(*x.shape[:-1], -1)


def merge(config: LoraConfig, weights: Any, adapter: Adapter) -> Any:
    """The weights with the adapter's change in them, in their own dtype; computed in float32 or wider."""
    layers = dict(weights["layers"])
    for name, own in adapter.items():
        kernel = layers[name]["kernel"]
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        added = jnp.einsum("lir,lro->lio", own["a"].astype(wide), own["b"].astype(wide)) * config.scale
        layers[name] = {**layers[name], "kernel": (kernel.astype(wide) + added).astype(kernel.dtype)}
    return {**weights, "layers": layers}


def blocks(path: tuple[Any, ...]) -> Stacked:
    """The label of an adapter's leaf for `blocks=` of hamu_jax: every layer's A and B are blocks of their own.

    Example:
      >>> import hamu_jax
      >>> adapter = {"q": {"a": jnp.zeros((2, 4, 1)), "b": jnp.zeros((2, 1, 4))}}
      >>> hamu_jax.block_labels(adapter, blocks)
      ('q/a/0', 'q/a/1', 'q/b/0', 'q/b/1')
    """
    return Stacked(jax.tree_util.keystr(path, simple=True, separator="/"))
