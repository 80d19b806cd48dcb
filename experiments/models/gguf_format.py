"""GGUF files (llama.cpp's format), whose numbers are quantised: converted once into a Hugging Face directory.

python -m experiments.models.gguf_format FILE.gguf DIRECTORY
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.models import gguf_header, gguf_tokenizer, hf_config, hf_format, rotary
from experiments.models.directories import new_directory
from experiments.models.llama_config import LlamaConfig, RopeScaling

SINGLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
MODULES = {"self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
MODULES |= {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"}
MODULES |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}


@dataclasses.dataclass(frozen=True)
class Convert:
    """Makes a Hugging Face directory of a GGUF file.

    Attributes:
      file: the GGUF file.
      out: the directory, a new one.
      dtype: of its weights.
    """

    file: Path
    out: Path
    dtype: str = "float32"


def convert(file: str | os.PathLike[str], out: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Writes the model of a GGUF file, and its tokenizer, as a Hugging Face directory, whole or not at all.

    Args:
      file: of the architecture llama or qwen2, quantised or not.
      out: a new directory.
      dtype: of the weights there. A quantised model's numbers fit float32 exactly, bfloat16 not quite.

    Raises:
      FileNotFoundError: if there is no such file.
      FileExistsError: if `out` holds something.
      ValueError: for another architecture or tokenizer, a tensor that does not fit, or a file that is broken or cut off.
    """
    field, tensors = _read(file)
    try:
        config = _config(field, tensors)
        hf_format.check_shapes(config, lambda name: _shape(tensors, name))
        values = hf_config.render(config, dtype)
        ids = gguf_tokenizer.token_ids(field)
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:  # of metadata of any other type
        raise ValueError(f"{file}: got metadata that is not a model's ({error}), expected a Llama or Qwen2") from error
    generation = {f"{kind}_token_id": i for kind, i in ids.items() if kind != "unk"}
    with new_directory(out) as directory:
        gguf_tokenizer.write(field, directory)
        weights = hf_format.gather(config, lambda name: _tensor(config, tensors, name), dtype)
        tensors = hf_format.scatter(config, weights)
        hf_format.write_tensors(directory / "model.safetensors", tensors)
        hf_format.write_json(directory / "config.json", values | generation)
        hf_format.write_json(directory / "generation_config.json", generation)


def unpermute(rows: Float[np.ndarray, "rows ..."], heads: int) -> Float[np.ndarray, "rows ..."]:
    """The rows of q or k as Hugging Face has them; GGUF's Llamas have the pairs that turn together side by side.

    Example:
      >>> unpermute(np.array([0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]), heads=1).tolist()
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _read(file: str | os.PathLike[str]) -> tuple[Callable[[str], Any], dict[str, Any]]:
    """Metadata by name (None if it is not there), and tensors by name, not yet read."""
    import gguf  # noqa: PLC0415

    if not Path(file).is_file():
        raise FileNotFoundError(f"file: got {file}, which is not there, expected a GGUF file")
    gguf_header.check_header(Path(file))
    try:
        reader: Any = gguf.GGUFReader(file)
    except Exception as error:  # ValueError, KeyError, UnicodeDecodeError, numpy's own
        raise ValueError(f"{file}: got what gguf does not read ({error}), expected a whole GGUF file") from error

    def field(name: str) -> Any:
        field = reader.get_field(name)
        try:
            return None if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: got {name} with a text that is not UTF-8, expected a whole GGUF file") from error

    return field, {tensor.name: tensor for tensor in reader.tensors}


def _config(field: Callable[[str], Any], tensors: dict[str, Any]) -> LlamaConfig:
    """The model's sizes."""
    kind = field("general.architecture")
    if kind not in hf_config.ARCHITECTURES:
        raise ValueError(f"file: got the architecture {kind!r}, expected one of {', '.join(hf_config.ARCHITECTURES)}")
    width, heads = field(f"{kind}.embedding_length"), field(f"{kind}.attention.head_count")
    config = LlamaConfig(
        vocabulary=len(field("tokenizer.ggml.tokens")),
        width=width,
        hidden=field(f"{kind}.feed_forward_length"),
        layers=field(f"{kind}.block_count"),
        heads=heads,
        kv_heads=field(f"{kind}.attention.head_count_kv") or heads,
        head_dim=field(f"{kind}.attention.key_length") or width // heads,
        rope_theta=float(field(f"{kind}.rope.freq_base") or 10000.0),
        norm_eps=float(np.float32(field(f"{kind}.attention.layer_norm_rms_epsilon")).astype(str)),  # 1e-05, not 9.99999e-06
        tied="output.weight" not in tensors,
        qkv_bias=kind == "qwen2",
        positions=field(f"{kind}.context_length"),
    )
    if "rope_freqs.weight" not in tensors:
        return config
    return dataclasses.replace(config, rope_scaling=_scaling(config, _dequantised(tensors["rope_freqs.weight"])))


def _scaling(config: LlamaConfig, factors: Float[np.ndarray, " half"]) -> RopeScaling:
    """Llama 3's stretching; the file has only what each frequency is divided by."""
    guess = RopeScaling(float(factors.max()), 1.0, 4.0, 8192)  # as in every Llama since 3.1
    if not np.allclose(rotary.stretch(guess, rotary.frequencies(config)), factors, rtol=1e-4):
        raise ValueError(f"file: got rope_freqs that are not Llama 3's with the factor {guess.factor}: another stretching")
    return guess


def _stored(tensors: dict[str, Any], name: str) -> Any:
    """A tensor of the file by Hugging Face's name."""
    module, part = name.rsplit(".", 1)
    if module in SINGLE:
        theirs = SINGLE[module]
    else:
        number, module = module.removeprefix("model.layers.").split(".", 1)
        theirs = f"blk.{number}.{MODULES[module]}"
    if f"{theirs}.{part}" not in tensors:
        raise ValueError(f"file: got no tensor {theirs}.{part}, expected one for {name}")
    return tensors[f"{theirs}.{part}"]


def _shape(tensors: dict[str, Any], name: str) -> tuple[int, ...]:
    """A tensor's shape, by Hugging Face's name."""
    return tuple(int(n) for n in reversed(_stored(tensors, name).shape))


def _tensor(config: LlamaConfig, tensors: dict[str, Any], name: str) -> Float[np.ndarray, "..."]:
    """One tensor by Hugging Face's name."""
    value = _dequantised(_stored(tensors, name))
    module = name.removeprefix("model.layers.").partition(".")[2].rpartition(".")[0]
    turned = {"self_attn.q_proj": config.heads, "self_attn.k_proj": config.kv_heads}
    return unpermute(value, turned[module]) if module in turned and not config.qkv_bias else value


def _dequantised(tensor: Any) -> Float[np.ndarray, "..."]:
    """A tensor's numbers."""
    import gguf  # noqa: PLC0415

    value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return np.asarray(value, jnp.float32).reshape(tuple(int(n) for n in reversed(tensor.shape)))


if __name__ == "__main__":
    import tyro

    asked = tyro.cli(tyro.conf.Positional[Convert], description=__doc__)
    convert(asked.file, asked.out, dtype=asked.dtype)
    print(asked.out)
