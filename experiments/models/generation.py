"""Greedy generation: the prompt in one pass, then a token at a time with the keys and values that are kept."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from experiments.models import llama
from experiments.models.lora import Adapter


class _State(NamedTuple):
    """What one token hands to the next."""

    step: Int[Array, ""]
    token: Int[Array, " batch"]
    done: Bool[Array, " batch"]
    answer: Int[Array, "batch new"]
    valid: Bool[Array, "batch keys"]
    cache: llama.Cache


@functools.partial(jax.jit, static_argnames=("network", "max_new_tokens", "eos", "pad"))
def generate(
    network: llama.Network,
    weights: llama.Weights,
    tokens: Int[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    *,
    max_new_tokens: int,
    eos: tuple[int, ...] = (),
    pad: int = 0,
    adapter: Adapter | None = None,
) -> Int[Array, "batch new"]:
    """The most probable next token, again and again.

    One compiled program for each shape of `tokens`; it ends early when all answers have ended.

    Args:
      network: what to compute.
      weights: the model's.
      tokens: the prompts, padded on either side.
      mask: which of the tokens are a prompt's; at least one of each.
      max_new_tokens: the longest answer, in tokens.
      eos: tokens that end an answer. It is the last of it.
      pad: fills an answer after its end.
      adapter: as in `llama.forward`.

    Returns:
      The answers, `[batch, max_new_tokens]`.

    Raises:
      ValueError: for `max_new_tokens` below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}, expected a positive integer")
    mask, ends = mask.astype(bool), jnp.asarray(eos, tokens.dtype)
    length, start, room = jnp.sum(mask, axis=1, dtype=jnp.int32), tokens.shape[1], max_new_tokens - 1
    first, keys_and_values = _prefill(network, weights, tokens, mask, adapter)
    cache: Any = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))), keys_and_values)
    answer = jnp.full((len(tokens), max_new_tokens), pad, tokens.dtype).at[:, 0].set(first)
    state = _State(jnp.int32(0), first, jnp.isin(first, ends), answer, jnp.pad(mask, ((0, 0), (0, room))), cache)

    def go_on(state: _State) -> Array:
        return (state.step < room) & ~jnp.all(state.done)

    def next_token(state: _State) -> _State:
        seen = jnp.pad(state.valid, ((0, 0), (0, 1)), constant_values=True)[:, None, None]  # and itself
        here = (length + state.step)[:, None]
        hidden, fresh = llama.backbone(
            network, weights, state.token[:, None], here, seen, adapter=adapter, past=state.cache, keep=True
        )
        token = jnp.where(state.done, pad, _best(network, weights, hidden[:, 0])).astype(tokens.dtype)
        slot = start + state.step
        cache: Any = jax.tree.map(
            lambda cached, new: jax.lax.dynamic_update_slice_in_dim(cached, new, slot, 2), state.cache, fresh
        )
        answer = state.answer.at[:, state.step + 1].set(token)
        done = state.done | jnp.isin(token, ends)
        return _State(state.step + 1, token, done, answer, state.valid.at[:, slot].set(True), cache)

    return jax.lax.while_loop(go_on, next_token, state).answer


def _prefill(
    network: llama.Network, weights: llama.Weights, tokens: Array, mask: Array, adapter: Adapter | None
) -> tuple[Array, llama.Cache | None]:
    """The first token of every answer, and the prompts' keys and values."""
    hidden, keys_and_values = llama.backbone(
        network, weights, tokens, llama.positions(mask), llama.causal(mask), adapter=adapter, keep=True
    )
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    at_last = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return _best(network, weights, at_last).astype(tokens.dtype), keys_and_values


def _best(network: llama.Network, weights: llama.Weights, hidden: Array) -> Array:
    """The most probable tokens."""
    return jnp.argmax(llama.logits(network, weights, hidden), axis=-1)
