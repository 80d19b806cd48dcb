"""Llama-family models: RMSNorm, rotary positions, grouped-query attention, SwiGLU; layers stacked and scanned.

Weights are a pytree, linear maps `[layers, inputs, outputs]`; `abstract` has all names and shapes. Hand them to a jitted
function as an argument: what it closes over is compiled into it.
"""

import dataclasses
import zlib
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Key

from experiments.models import rotary
from experiments.models.llama_config import LlamaConfig
from experiments.models.lora import TARGETS, Adapter, LoraConfig, change
from hamu_jax import Stacked

Weights: TypeAlias = dict[str, Any]
Cache: TypeAlias = tuple[Float[Array, "layers batch time heads dim"], Float[Array, "layers batch time heads dim"]]


@dataclasses.dataclass(frozen=True)
class Network:
    """All of a model that is not an array: what a jitted function takes as a static argument.

    Attributes:
      config: its sizes.
      lora: the adapter's settings, if there is one.
      dtype: in which it computes. Norms, angles and softmax are in float32 either way.
      checkpoint: keep only the layers' inputs for the backward pass, and compute the rest again. Else the outputs of the
        linear maps are kept too: norms, rotation, softmax and gates are cheaper to compute again than to keep.
    """

    config: LlamaConfig
    lora: LoraConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint: bool = False


class _Own(NamedTuple):
    """What is one layer's; stacked, that of all."""

    weights: Any
    adapter: Any
    key: Any
    past: Any


class Llama(nnx.Module):
    """The model as a flax module; `forward` is the same as a function.

    Attributes:
      network: what it computes.
      weights: its parameters, as `abstract` names them.
    """

    def __init__(self, network: Network, weights: Weights) -> None:
        self.network = network
        self.weights = nnx.data(jax.tree.map(nnx.Param, weights))

    def __call__(self, tokens: Int[Array, "batch time"], mask: Bool[Array, "batch time"] | None = None) -> Array:
        """Logits, as `forward` has them."""
        plain = jax.tree.map(lambda p: p[...], self.weights, is_leaf=lambda p: isinstance(p, nnx.Param))
        return forward(self.network, plain, tokens, mask)


def abstract(config: LlamaConfig, dtype: Any = jnp.float32) -> Weights:
    """Names and shapes of all weights."""
    layers: Weights = {name: {"kernel": shape} for name, shape in config.projections().items()}
    if config.qkv_bias:
        for name in ("q", "k", "v"):
            layers[name]["bias"] = layers[name]["kernel"][1:]
    layers |= {"attention_norm": (config.width,), "mlp_norm": (config.width,)}
    stacked = jax.tree.map(lambda shape: (config.layers, *shape), layers, is_leaf=lambda x: isinstance(x, tuple))
    weights: Weights = {"embedding": (config.vocabulary, config.width), "layers": stacked, "norm": (config.width,)}
    if not config.tied:
        weights["head"] = (config.width, config.vocabulary)
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), weights, is_leaf=lambda x: isinstance(x, tuple))


def init(config: LlamaConfig, key: Key[Array, ""], *, deviation: float = 0.02, dtype: Any = jnp.float32) -> Weights:
    """Random weights: normal with the given standard deviation, norms 1, biases 0."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract(config, dtype))
    keys = jax.random.split(key, len(leaves))

    def draw(path: Any, leaf: Any, key: Array) -> Array:
        name = str(path[-1].key)
        if name.endswith("norm") or name == "bias":
            return jnp.full(leaf.shape, float(name != "bias"), dtype)
        return deviation * jax.random.normal(key, leaf.shape, dtype)

    return jax.tree.unflatten(tree, [draw(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)])


def blocks(path: tuple[Any, ...]) -> Any:
    """The label of a weight for `blocks=` of hamu_jax: every tensor of every layer is a block of its own.

    Example:
      >>> import hamu_jax
      >>> small = LlamaConfig(vocabulary=8, width=4, hidden=6, layers=2, heads=2, kv_heads=1, head_dim=2, tied=True)
      >>> hamu_jax.block_labels(abstract(small), blocks)[:3]
      ('embedding', 'layers/attention_norm/0', 'layers/attention_norm/1')
    """
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return Stacked(name) if name.startswith("layers/") else name


def forward(
    network: Network,
    weights: Weights,
    tokens: Int[Array, "batch time"],
    mask: Bool[Array, "batch time"] | None = None,
    *,
    adapter: Adapter | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time vocabulary"]:
    """The logits of the token that follows each token.

    Padding, on either side, changes nothing: positions count from a text's first token.

    Args:
      network: what to compute.
      weights: the model's.
      tokens: `[batch, time]`. The logits of a text with a token beyond the vocabulary are NaN.
      mask: which tokens are text; default all. The others' logits are finite, without meaning.
      adapter: an adapter's parameters, for a network with `lora`.
      key: of the adapter's dropout; without one there is none.

    Returns:
      `[batch, time, vocabulary]`, in the network's dtype.

    Raises:
      ValueError: for an adapter without `network.lora`.
    """
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    hidden, _ = backbone(network, weights, tokens, positions(mask), causal(mask), adapter=adapter, key=key)
    return logits(network, weights, hidden)


def positions(mask: Bool[Array, "batch time"]) -> Int[Array, "batch time"]:
    """The position of every token in its text; 0 before it."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)


def causal(mask: Bool[Array, "batch time"]) -> Bool[Array, "batch 1 time time"]:
    """Which tokens each token sees: the text up to itself; and itself, even in padding, so that no softmax is empty."""
    before, itself = jnp.tri(mask.shape[1], dtype=bool), jnp.eye(mask.shape[1], dtype=bool)
    return ((before[None] & mask[:, None, :]) | itself[None])[:, None]


def backbone(
    network: Network,
    weights: Weights,
    tokens: Int[Array, "batch time"],
    at: Int[Array, "batch time"],
    seen: Bool[Array, "batch 1 time keys"],
    *,
    adapter: Adapter | None = None,
    key: Key[Array, ""] | None = None,
    past: Cache | None = None,
    keep: bool = False,
) -> tuple[Float[Array, "batch time width"], Cache | None]:
    """The residual stream after the last norm, and with `keep` the keys and values of these tokens.

    `seen` says which keys each token sees: those of `past` first, then those of `tokens`, which are at positions `at`.
    """
    if adapter is not None and network.lora is None:
        raise ValueError("adapter: got one for a network without lora, expected Network(..., lora=LoraConfig(...))")
    for name, own in (adapter or {}).items():
        if len(own["a"]) != network.config.layers:
            raise ValueError(
                f"adapter: got {name} of {len(own['a'])} layers, expected those of the model, {network.config.layers}"
            )
    turn = rotary.rotation(network.config, at)

    def layer(x: Array, own: _Own) -> tuple[Array, Any]:
        x, fresh = _layer(network, x, own, turn, seen)
        return x, fresh if keep else None

    keys = None if key is None else jax.random.split(key, network.config.layers)
    # A token beyond the vocabulary has no embedding: NaN, where indexing would take the last one.
    embedded = weights["embedding"].at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    x = embedded.astype(network.dtype)
    policy = jax.checkpoint_policies.save_only_these_names(*(() if network.checkpoint else TARGETS))
    body = jax.checkpoint(layer, prevent_cse=False, policy=policy)  # scan keeps its copies apart already
    x, fresh = jax.lax.scan(body, x, _Own(weights["layers"], adapter, keys, past))
    return _norm(network.config, x, weights["norm"]), fresh


def logits(network: Network, weights: Weights, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch vocabulary"]:
    """The last linear map."""
    matrix = weights["embedding"].T if network.config.tied else weights["head"]
    return hidden @ matrix.astype(hidden.dtype)


def _layer(network: Network, x: Array, own: _Own, turn: Array, seen: Array) -> tuple[Array, tuple[Array, Array]]:
    """Attention and MLP, each behind a norm and beside a residual connection; also these tokens' keys and values."""
    config = network.config
    normed = _norm(config, x, own.weights["attention_norm"])
    q, k, v = (_linear(network, own, name, normed).reshape(*x.shape[:2], -1, config.head_dim) for name in ("q", "k", "v"))
    q, k = rotary.rotate(q, turn), rotary.rotate(k, turn)
    every = (k, v) if own.past is None else [jnp.concatenate(both, axis=1) for both in zip(own.past, (k, v), strict=True)]
    attended = jax.nn.dot_product_attention(q, *every, mask=seen)
    x = x + _linear(network, own, "o", attended.reshape(*x.shape[:2], -1))
    normed = _norm(config, x, own.weights["mlp_norm"])
    gated = jax.nn.silu(_linear(network, own, "gate", normed)) * _linear(network, own, "up", normed)
    return x + _linear(network, own, "down", gated), (k, v)


def _linear(network: Network, own: _Own, name: str, x: Array) -> Array:
    """One linear map, with its bias and its adapter."""
    weights = own.weights[name]
    y = x @ weights["kernel"].astype(x.dtype)
    if "bias" in weights:
        y = y + weights["bias"].astype(x.dtype)[None, None]
    if network.lora is not None and own.adapter is not None and name in own.adapter:
        key = None if own.key is None else jax.random.fold_in(own.key, zlib.crc32(name.encode()))
        y = y + change(network.lora, own.adapter[name], x, key)
    return checkpoint_name(y, name)


def _norm(config: LlamaConfig, x: Array, scale: Array) -> Array:
    """RMSNorm (arXiv 1910.07467), in float32."""
    wide = x.astype(jnp.float32)
    unit = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + config.norm_eps)
    return unit.astype(x.dtype) * scale.astype(x.dtype)[None, None]
