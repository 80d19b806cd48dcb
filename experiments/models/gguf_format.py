"""GGUF files (llama.cpp's format), whose numbers are quantised: converted once into a Hugging Face directory.

python -m experiments.models.gguf_format FILE.gguf DIRECTORY
"""

import dataclasses
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.models import gguf_tokenizer, hf_config, hf_format, rotary
from experiments.models.directories import new_directory
from experiments.models.llama_config import LlamaConfig, RopeScaling

SINGLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
MODULES = {"self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
MODULES |= {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"}
STRING, ARRAY, DEPTH, VERSIONS = 8, 9, 4, (2, 3)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by type
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
      ValueError: for another architecture or tokenizer, or a tensor that does not fit.
    """
    field, tensors = _read(file)
    config = _config(field, tensors)
    values = hf_config.render(config, dtype)
    ids = gguf_tokenizer.token_ids(field)
    generation = {f"{kind}_token_id": i for kind, i in ids.items() if kind != "unk"}
    with new_directory(out) as directory:
        gguf_tokenizer.write(field, directory)
        weights = hf_format.gather(config, lambda name: _tensor(config, tensors, name), dtype)
        held = hf_format.scatter(config, weights)
        hf_format.write_tensors(directory / "model.safetensors", held)
        hf_format.write_json(directory / "config.json", values | generation)
        hf_format.write_json(directory / "generation_config.json", generation)


def unpermute(rows: Float[np.ndarray, "rows ..."], heads: int) -> Float[np.ndarray, "rows ..."]:
    """The rows of q or k as Hugging Face has them; GGUF's Llamas have the pairs that turn together side by side.

    Example:
      >>> unpermute(np.array([0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]), heads=1).tolist()
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def check_header(file: Path) -> None:
    """Checks that the metadata fit into the file: its reader would follow any length that the file states.

    Raises:
      ValueError: naming the file.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        place = 0

        def take(count: int) -> bytes:
            nonlocal place
            if count > len(raw) - place:
                raise ValueError(
                    f"file: got {file}, whose header asks for {count} bytes at {place} of {len(raw)}, expected a whole file"
                )
            place += count
            return raw[place - count : place]

        def number(size: int = 8) -> int:
            return int.from_bytes(take(size), "little")

        def skip_bytes(count: int) -> None:
            nonlocal place
            take(count if count > len(raw) - place else 0)
            place += count

        def skip(kind: int, depth: int = 0) -> None:
            if kind == STRING:
                skip_bytes(number())
            elif kind == ARRAY and depth < DEPTH:
                kind, count = number(4), number()
                if kind in SIZES:
                    skip_bytes(count * SIZES[kind])
                elif count > (len(raw) - place) // 8:  # each has a length of 8 bytes at least
                    skip_bytes(count * 8)
                else:
                    for _ in range(count):
                        skip(kind, depth + 1)
            elif kind in SIZES:
                take(SIZES[kind])
            else:
                raise ValueError(f"file: got {file}, with a value of type {kind} at {place}, expected a GGUF file")

        if take(4) != b"GGUF" or number(4) not in VERSIONS:
            raise ValueError(f"file: got {file}, expected a little-endian GGUF file of version 2 or 3")
        tensors, fields = number(), number()
        for _ in range(fields):
            skip(STRING)
            skip(number(4))
        for _ in range(tensors):
            skip(STRING)
            skip_bytes(8 * number(4) + 4 + 8)  # its shape, type and place


def _read(file: str | os.PathLike[str]) -> tuple[Callable[[str], Any], dict[str, Any]]:
    """Metadata by name (None if it is not there), and tensors by name, not yet read."""
    import gguf  # noqa: PLC0415

    if not Path(file).is_file():
        raise FileNotFoundError(f"file: got {file}, which is not there, expected a GGUF file")
    check_header(Path(file))
    try:
        reader: Any = gguf.GGUFReader(file)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"file: got {file}, which is incomplete or damaged ({error}), expected a GGUF file") from error

    def field(name: str) -> Any:
        found = reader.get_field(name)
        return None if found is None else found.contents()

    return field, {tensor.name: tensor for tensor in reader.tensors}


def _config(field: Callable[[str], Any], tensors: dict[str, Any]) -> LlamaConfig:
    """The model's sizes."""
    kind = field("general.architecture")
    if kind not in hf_config.ARCHITECTURES:
        raise ValueError(f"file: got the architecture {kind!r}, expected one of {', '.join(hf_config.ARCHITECTURES)}")
    width, heads = field(f"{kind}.embedding_length"), field(f"{kind}.attention.head_count")
    sizes = {name: field(f"{kind}.{name}") for name in ("feed_forward_length", "block_count", "context_length")}
    sizes |= {"embedding_length": width, "attention.head_count": heads}
    for name, size in sizes.items():
        if not isinstance(size, int) or not 0 < size < 2**31:
            raise ValueError(f"file: got {kind}.{name}={size!r}, expected a positive whole number")
    if sizes["block_count"] > len(tensors):
        raise ValueError(f"file: got {kind}.block_count={sizes['block_count']} and {len(tensors)} tensors, expected all layers")
    for name in ("tokenizer.ggml.tokens", f"{kind}.attention.layer_norm_rms_epsilon"):
        if field(name) is None:
            raise ValueError(f"file: got no {name}, expected it in the metadata")
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


def _tensor(config: LlamaConfig, tensors: dict[str, Any], name: str) -> Float[np.ndarray, "..."]:
    """One tensor by Hugging Face's name."""
    module, part = name.rsplit(".", 1)
    if module in SINGLE:
        theirs = SINGLE[module]
    else:
        number, module = module.removeprefix("model.layers.").split(".", 1)
        theirs = f"blk.{number}.{MODULES[module]}"
    if f"{theirs}.{part}" not in tensors:
        raise ValueError(f"file: got no tensor {theirs}.{part}, expected one for {name}")
    value = _dequantised(tensors[f"{theirs}.{part}"])
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
