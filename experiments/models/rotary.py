"""Rotary position embeddings, with Llama 3's stretching, in Hugging Face's layout: the two halves of a head turn together."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.models.llama_config import LlamaConfig, RopeScaling


def frequencies(config: LlamaConfig) -> Float[np.ndarray, " half"]:
    """By how many radians each pair of a head's coordinates turns from one position to the next.

    Source: arXiv 2104.09864, section 3.2.2.

    >>> frequencies(LlamaConfig(vocabulary=8, width=4, hidden=6, layers=1, heads=1, kv_heads=1, head_dim=4)).tolist()
    [1.0, 0.01]
    """
    plain = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    return plain if config.rope_scaling is None else plain / stretch(config.rope_scaling, plain)


def stretch(scaling: RopeScaling, plain: Float[np.ndarray, " half"]) -> Float[np.ndarray, " half"]:
    """What each frequency is divided by: `factor` if slow, 1 if fast, and between, linear in the inverse of that.

    Source: Llama 3.1's code; the same numbers as transformers' `rope_type="llama3"`.
    """
    turns = scaling.original_positions * plain / (2 * np.pi)  # in the length of the first training's texts
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    fast = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - fast) / scaling.factor + fast)


def rotation(config: LlamaConfig, positions: Int[Array, "batch time"]) -> Float[Array, "2 batch time 1 half"]:
    """Cosine and sine of every position's angles, in float32."""
    angles = positions.astype(jnp.float32)[..., None, None] * jnp.asarray(frequencies(config), jnp.float32)
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotate(
    x: Float[Array, "batch time heads dim"], turn: Float[Array, "2 batch time 1 half"]
) -> Float[Array, "batch time heads dim"]:
    """Turns every head by its position's angles: computed in float32, returned in the dtype of `x`."""
    first, second = jnp.split(x.astype(turn.dtype), 2, axis=-1)
    cos, sin = turn
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
