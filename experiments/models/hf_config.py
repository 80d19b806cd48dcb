"""Hugging Face's `config.json` of Llama and Qwen2, from and to `LlamaConfig`."""

from collections.abc import Mapping
from typing import Any

from experiments.models.llama_config import LlamaConfig, RopeScaling

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
    for name in ("mlp_bias", "use_sliding_window") + (("attention_bias",) if kind == "llama" else ()):
        _expect(values, name, bool(values.get(name)), False)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    heads = values["num_attention_heads"]
    return LlamaConfig(
        vocabulary=values["vocab_size"],
        width=values["hidden_size"],
        hidden=values["intermediate_size"],
        layers=values["num_hidden_layers"],
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        rope_theta=float(rope.get("rope_theta") or values.get("rope_theta") or 10000.0),
        rope_scaling=_scaling(rope),
        norm_eps=values.get("rms_norm_eps", 1e-6),
        tied=values.get("tie_word_embeddings", False),
        qkv_bias=kind == "qwen2",
        positions=values.get("max_position_embeddings", 2048),
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
    return RopeScaling(*(rope[name] for name in names))


def _expect(values: Mapping[str, Any], name: str, got: Any, *expected: Any) -> None:
    """Raises unless a value is an expected one."""
    if got not in expected:
        raise ValueError(f"config.json: got {name}={values.get(name)!r}, expected {' or '.join(map(repr, expected))}")
