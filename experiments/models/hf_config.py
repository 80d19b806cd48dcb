"""Hugging Face's `config.json` of Llama and Qwen2, from and to `LlamaConfig`."""

import math
from collections.abc import Mapping
from typing import Any

from experiments.models.llama_config import LlamaConfig, RopeScaling

MOST_LAYERS = 10_000  # more than any Llama has: memory for all layers is reserved before they are read
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def parse(values: Mapping[str, Any]) -> LlamaConfig:
    """The sizes in a `config.json`, of transformers 4 or 5.

    Raises:
      ValueError: for a model that computes something else than `llama.forward` does, naming what.

    >>> parse({"model_type": "gpt2"})
    Traceback (most recent call last):
        ...
    ValueError: config.json: got model_type='gpt2', expected 'llama' or 'qwen2'
    """
    kind = values.get("model_type")
    _expect(values, "model_type", kind, *ARCHITECTURES)
    _expect(values, "hidden_act", values.get("hidden_act", "silu"), "silu")
    _expect(values, "quantization_config", values.get("quantization_config") or None, None)
    for name in ("mlp_bias", "use_sliding_window") + (("attention_bias",) if kind == "llama" else ()):
        _expect(values, name, bool(values.get(name)), False)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"config.json: got rope_scaling={rope!r}, expected an object")
    _expect(rope, "partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), 1.0)
    tied = values.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise ValueError(f"config.json: got tie_word_embeddings={tied!r}, expected true or false")
    width, heads = _integer(values, "hidden_size"), _integer(values, "num_attention_heads")
    theta = rope if rope.get("rope_theta") else values
    return LlamaConfig(
        vocabulary=_integer(values, "vocab_size"),
        width=width,
        hidden=_integer(values, "intermediate_size"),
        layers=_integer(values, "num_hidden_layers", most=MOST_LAYERS),
        heads=heads,
        kv_heads=_integer(values, "num_key_value_heads", heads),
        head_dim=_integer(values, "head_dim", width // heads),
        rope_theta=_number(theta, "rope_theta", 10000.0),
        rope_scaling=_scaling(rope),
        norm_eps=_number(values, "rms_norm_eps", 1e-6),
        tied=tied,
        qkv_bias=kind == "qwen2",
        positions=_integer(values, "max_position_embeddings", 2048),
    )


def render(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """A `config.json` that transformers opens, with weights in `dtype`."""
    kind, scaling = ("qwen2" if config.qkv_bias else "llama"), config.rope_scaling
    rope: dict[str, Any] | None = scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.positions,
        "torch_dtype": dtype,
    }


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    """Llama 3's stretching, if the rotary embedding has it."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    _expect(rope, "rope_type", kind, "llama3")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high = (_number(rope, name) for name in names[:3])
    if low >= high:
        raise ValueError(f"config.json: got high_freq_factor={high!r}, expected more than low_freq_factor={low!r}")
    return RopeScaling(factor, low, high, _integer(rope, names[3]))


def _integer(values: Mapping[str, Any], name: str, default: int | None = None, most: int = 2**31 - 1) -> int:
    """A positive whole number; without a default it must be there."""
    value = default if values.get(name) is None else values[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"config.json: got {name}={value!r}, expected a whole number from 1 to {most}")
    return value


def _number(values: Mapping[str, Any], name: str, default: float | None = None) -> Any:
    """A positive number; without a default it must be there."""
    value = default if values.get(name) is None else values[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"config.json: got {name}={value!r}, expected a positive number")
    return value


def _expect(values: Mapping[str, Any], name: str, got: Any, *expected: Any) -> None:
    """Raises unless a value is an expected one."""
    if got not in expected:
        raise ValueError(f"config.json: got {name}={values.get(name)!r}, expected {' or '.join(map(repr, expected))}")
