"""Hugging Face's `config.json` of Llama and Qwen2, from and to `LlamaConfig`."""

import math
from collections.abc import Mapping
from typing import Any

from experiments.models.llama_config import LlamaConfig, RopeScaling

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
POSITIONS = {"llama": 2048, "qwen2": 32768}  # where config.json has none, as in transformers
MOST = 10**9  # of any size
MOST_LAYERS = 10**4


def parse(values: Mapping[str, Any]) -> LlamaConfig:
    """The sizes in a `config.json`, of transformers 4 or 5.

    Raises:
      ValueError: for a model that computes something else than `llama.forward` does, or a value that cannot be, naming it.

    >>> parse({"model_type": "gpt2"})
    Traceback (most recent call last):
        ...
    ValueError: config.json: got model_type='gpt2', expected 'llama' or 'qwen2'
    """
    kind = values.get("model_type")
    _expect(values, "model_type", kind, *ARCHITECTURES)
    if values.get("quantization_config") is not None:
        method = values["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise ValueError(f"config.json: got quantization_config with {method!r}, expected none: quantised models are not read")
    _expect(values, "hidden_act", values.get("hidden_act", "silu"), "silu")
    for name in ("mlp_bias", "use_sliding_window") + (("attention_bias",) if kind == "llama" else ()):
        _expect(values, name, _flag(values, name), False)
    layer_types = values.get("layer_types") or []
    if not isinstance(layer_types, list):
        raise ValueError(f"config.json: got layer_types={layer_types!r}, expected a list")
    for layer in layer_types:
        _expect({"layer_types": layer}, "layer_types", layer, "full_attention")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"config.json: got rope_parameters={rope!r}, expected an object")
    for name, value in rope.items():
        if isinstance(value, Mapping):
            raise ValueError(f"config.json: got rope_parameters with {name}={value!r}, expected the same for all layers")
    for some in (rope, values):
        _expect(some, "partial_rotary_factor", some.get("partial_rotary_factor") or 1, 1)
    heads, width, positions = (
        _whole(values, name) for name in ("num_attention_heads", "hidden_size", "max_position_embeddings")
    )
    return LlamaConfig(
        vocabulary=_whole(values, "vocab_size"),
        width=width,
        hidden=_whole(values, "intermediate_size"),
        layers=_whole(values, "num_hidden_layers", most=MOST_LAYERS),
        heads=heads,
        kv_heads=_whole(values, "num_key_value_heads", heads),
        head_dim=_whole(values, "head_dim", max(width // heads, 1)),
        rope_theta=_positive(rope, "rope_theta", _positive(values, "rope_theta", 10000.0)),
        rope_scaling=_scaling(rope, values, positions),
        norm_eps=_positive(values, "rms_norm_eps", 1e-6),
        tied=_flag(values, "tie_word_embeddings"),
        qkv_bias=kind == "qwen2",
        positions=positions,
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


def _scaling(rope: Mapping[str, Any], values: Mapping[str, Any], positions: int) -> RopeScaling | None:
    """Llama 3's stretching, if the rotary embedding has it. As in transformers, the original length may be missing."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    _expect(rope, "rope_type", kind, "llama3")
    name = "original_max_position_embeddings"
    original = _whole(values if name in values else rope, name, positions)
    factor, low, high = (_positive(rope, part) for part in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise ValueError(f"config.json: got high_freq_factor={high!r}, expected more than low_freq_factor={low!r}")
    return RopeScaling(factor, low, high, original)


def _whole(values: Mapping[str, Any], name: str, default: int | None = None, *, most: int = MOST) -> int:
    """A size. A value that is missing, or null, is the default if there is one."""
    value = default if values.get(name) is None else values[name]
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"config.json: got {name}={value!r}, expected a whole number from 1 to {most}")
    return value


def _positive(values: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A positive number. A value that is missing, or null, is the default if there is one."""
    value = default if values.get(name) is None else values[name]
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"config.json: got {name}={value!r}, expected a positive number")
    return float(value)


def _flag(values: Mapping[str, Any], name: str) -> bool:
    """True or false. A value that is missing, or null, is false."""
    value = values.get(name)
    if value not in (None, True, False) or type(value) not in (bool, type(None)):
        raise ValueError(f"config.json: got {name}={value!r}, expected true or false")
    return bool(value)


def _expect(values: Mapping[str, Any], name: str, got: Any, *expected: Any) -> None:
    """Raises unless a value is an expected one."""
    if not isinstance(got, (str, int, float, type(None))) or got not in expected:
        raise ValueError(f"config.json: got {name}={values.get(name)!r}, expected {' or '.join(map(repr, expected))}")
