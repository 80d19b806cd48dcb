"""Hugging Face model directories: `config.json`, safetensors in one file or several, and the tokenizer's files beside them."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from experiments.data.text_files import LFS_POINTER, read_json
from experiments.models import hf_config, llama
from experiments.models.directories import new_directory
from experiments.models.llama_config import LlamaConfig

Tensor: TypeAlias = Callable[[str], Shaped[np.ndarray, "..."]]

MODULES = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FLOATING = ("F64", "F32", "F16", "BF16")
INDEX = "model.safetensors.index.json"
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


def load(directory: str | os.PathLike[str], *, dtype: Any = "float32") -> tuple[LlamaConfig, llama.Weights]:
    """Reads a model.

    Args:
      directory: with `config.json`, and `model.safetensors` or `model.safetensors.index.json` and what that names.
      dtype: in which the weights are held.

    Returns:
      Its sizes, and its weights on the default device.

    Raises:
      FileNotFoundError: naming the file that is missing.
      ValueError: for a model of another kind, or a tensor that is missing or has another shape than the sizes say.
    """
    root = Path(directory)
    config = hf_config.parse(read_json(_existing(root, "config.json")))
    with _Files(root) as files:
        return config, gather(config, files.tensor, dtype)


def save(
    directory: str | os.PathLike[str],
    config: LlamaConfig,
    weights: llama.Weights,
    *,
    like: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a model that transformers opens, whole or not at all, in the dtype of its weights.

    Args:
      directory: a new one.
      config: the model's sizes.
      weights: its weights, with an adapter merged into them (`lora.merge`) if there was one.
      like: the directory of the model that it came from: its tokenizer, chat template and generation settings are kept.

    Raises:
      FileExistsError: if `directory` holds something.
    """
    with new_directory(directory) as out:
        tensors = scatter(config, weights)
        values = hf_config.render(config, str(tensors["model.norm.weight"].dtype))
        if like is not None:
            before = read_json(Path(like) / "config.json")
            values |= {name: before[name] for name in TOKEN_IDS if name in before}
            for file in (Path(like) / name for name in BESIDE):
                if file.exists():
                    _copied(file, out / file.name)
        write_json(out / "config.json", values)
        write_tensors(out / "model.safetensors", tensors)


def gather(config: LlamaConfig, tensor: Tensor, dtype: Any = "float32") -> llama.Weights:
    """The model's weights from a function that knows Hugging Face's names, whose matrices are `[outputs, inputs]`.

    Raises:
      ValueError: for a tensor that is not as the sizes say.
    """

    def read(name: str, shape: tuple[int, ...]) -> Any:
        value = tensor(name)
        value = value.T if value.ndim == 2 and name != "model.embed_tokens.weight" else value  # noqa: PLR2004
        if value.shape != shape:
            raise ValueError(f"{name}: got shape {value.shape}, expected {shape} (transposed, if a matrix) as config.json says")
        return value.astype(jnp.dtype(dtype))

    shapes = llama.abstract(config)
    layers: dict[str, Any] = {}
    for path, name in _layer_names(config):
        own = shapes["layers"][path[0]] if len(path) == 1 else shapes["layers"][path[0]][path[1]]
        first = read(f"model.layers.0.{name}", own.shape[1:])  # before memory is reserved: the sizes may be nonsense
        stack = np.empty(own.shape, jnp.dtype(dtype))
        stack[0] = first
        for i in range(1, config.layers):
            stack[i] = read(f"model.layers.{i}.{name}", own.shape[1:])
        _put(layers, path, jnp.asarray(stack))
    single = {path: jnp.asarray(read(name, shapes[path].shape)) for path, name in _single_names(config).items()}
    return {**single, "layers": layers}


def scatter(config: LlamaConfig, weights: llama.Weights) -> dict[str, Any]:
    """The model's weights by Hugging Face's names, matrices as `[outputs, inputs]`."""
    tensors = {name: weights[path].T if path == "head" else weights[path] for path, name in _single_names(config).items()}
    for path, name in _layer_names(config):
        stack = weights["layers"][path[0]] if len(path) == 1 else weights["layers"][path[0]][path[1]]
        for i in range(config.layers):
            tensors[f"model.layers.{i}.{name}"] = stack[i].T if path[-1] == "kernel" else stack[i]
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes a safetensors file as Hugging Face's libraries do."""
    import safetensors.flax  # noqa: PLC0415

    # safetensors writes memory as it lies: of a numpy array's transpose that would be the array itself.
    dense = {name: np.ascontiguousarray(np.asarray(tensor)) for name, tensor in tensors.items()}
    safetensors.flax.save_file(dense, path, metadata={"format": "pt"})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file as Hugging Face's libraries do."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def open_tensors(path: Path) -> Any:
    """Opens a safetensors file of floating-point numbers, for a `with` block.

    Raises:
      ValueError: naming the file, if it is a Git LFS pointer, incomplete or damaged, or holds quantised tensors.
    """
    import safetensors  # noqa: PLC0415

    with path.open("rb") as raw:
        if raw.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path}: got a Git LFS pointer, expected the file itself: git lfs pull downloads it")
    try:
        file: Any = safetensors.safe_open(path, framework="flax")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: got an incomplete or damaged file ({error}), expected safetensors") from error
    for name in file.keys():  # noqa: SIM118  (not a dictionary)
        dtype = file.get_slice(name).get_dtype()
        if dtype not in FLOATING:
            raise ValueError(
                f"{path}: got {name} in {dtype}, expected one of {', '.join(FLOATING)}: quantised models are not supported"
            )
    return file


def _single_names(config: LlamaConfig) -> dict[str, str]:
    """The tensors that are no layer's."""
    names = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight"}
    return names if config.tied else names | {"head": "lm_head.weight"}


def _layer_names(config: LlamaConfig) -> list[tuple[tuple[str, ...], str]]:
    """A layer's tensors: where ours is, and the name of Hugging Face's after the layer's number."""
    names: list[tuple[tuple[str, ...], str]] = [((ours,), f"{theirs}.weight") for ours, theirs in NORMS.items()]
    names += [((ours, "kernel"), f"{theirs}.weight") for ours, theirs in MODULES.items()]
    return names + [((ours, "bias"), f"{MODULES[ours]}.bias") for ours in "qkv" if config.qkv_bias]


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Sets a value in a tree of dictionaries."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _existing(root: Path, name: str) -> Path:
    """A file of a model directory."""
    path = root / name
    if not path.is_file():
        raise FileNotFoundError(f"model: {path} is not there, expected a Hugging Face model directory")
    return path


def _copied(source: Path, target: Path) -> None:
    """Copies a file, but not what a link to another directory points to: a model's files come from strangers.

    The hub's cache links to `../../blobs`, which is allowed.

    Raises:
      ValueError: naming the file, for another link.
    """
    root = source.parent.resolve()
    allowed = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    if source.resolve().parent not in allowed:
        raise ValueError(f"like: got {source}, a symbolic link to {source.resolve()}, expected a file in that directory")
    shutil.copyfile(source, target)


def _weight_map(root: Path) -> dict[str, str] | None:
    """In which file each tensor is, by the index; None without an index.

    Raises:
      FileNotFoundError: without tensors, naming what is there instead.
      ValueError: naming the file, for a wrong index, or one beside a single file.
    """
    index, single = root / INDEX, root / "model.safetensors"
    if not index.is_file():
        if not single.is_file():
            there = sorted(path.name for path in root.iterdir() if path.suffix in {".bin", ".safetensors", ".pt", ".pth"})
            held = (
                f" ({', '.join(there[:3])} is there: shards need their index, other formats must be converted)" if there else ""
            )
            raise FileNotFoundError(f"model: {single} is not there, expected it or {INDEX}{held}")
        return None
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{index}: got no weight_map, expected an object of tensors and files")
    for name in files.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index}: got the file name {name!r}, expected one without a directory that ends in .safetensors")
    if single.is_file() and "model.safetensors" not in files.values():
        raise ValueError(
            f"{index}: got an index beside {single.name}, expected one or the other: remove the one that is outdated"
        )
    return files


class _Files:
    """The safetensors files of a directory, opened when needed, read a tensor at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file_of = _weight_map(root)
        self._open: dict[str, Any] = {}

    def __enter__(self) -> "_Files":
        if self._file_of is None:
            file = self._file("model.safetensors")
            self._file_of = dict.fromkeys(file.keys(), "model.safetensors")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.__exit__(None, None, None)

    def _file(self, name: str) -> Any:
        """An open file."""
        if name not in self._open:
            self._open[name] = open_tensors(_existing(self._root, name)).__enter__()
        return self._open[name]

    def tensor(self, name: str) -> Shaped[np.ndarray, "..."]:
        """One tensor."""
        if name not in self._file_of:
            raise ValueError(f"model: {self._root} has no tensor {name}, which config.json asks for")
        file = self._file(self._file_of[name])
        if name not in file.keys():  # noqa: SIM118  (not a dictionary)
            raise ValueError(f"{self._root / self._file_of[name]}: got no tensor {name}, expected it as {INDEX} says")
        return np.asarray(file.get_tensor(name))
