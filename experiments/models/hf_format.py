"""Hugging Face model directories: `config.json`, safetensors in one file or several, and the tokenizer's files beside them."""

import functools
import itertools
import json
import operator
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from experiments.data.text_files import read_json
from experiments.models import hf_config, llama
from experiments.models.directories import new_directory
from experiments.models.llama_config import LlamaConfig
from experiments.models.safetensors_header import read_header

Tensor: TypeAlias = Callable[[str], Shaped[np.ndarray, "..."]]

MODULES = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
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
      ValueError: for a model of another kind, a quantised one, a file that is cut off or otherwise broken, an index that names
        files elsewhere, or a tensor that is missing or has another shape than the sizes say; before anything is allocated.
    """
    root = Path(directory)
    config = hf_config.parse(read_json(_existing(root, "config.json")))
    with _Files(root) as files:
        check_shapes(config, files.shape)
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
      ValueError: if a file of `like` is a link that leads out of it (or out of the hub's cache).
    """
    with new_directory(directory) as out:
        tensors = scatter(config, weights)
        values = hf_config.render(config, str(tensors["model.norm.weight"].dtype))
        if like is not None:
            before = read_json(_existing(Path(like), "config.json"))
            values |= {name: before[name] for name in TOKEN_IDS if name in before}
            for file in (Path(like) / name for name in BESIDE):
                if file.is_file():
                    _check_inside(Path(like), file)
                    shutil.copyfile(file, out / file.name)
        write_json(out / "config.json", values)
        write_tensors(out / "model.safetensors", tensors)


def check_shapes(config: LlamaConfig, shape: Callable[[str], tuple[int, ...]]) -> None:
    """Checks all tensors' shapes, by a function that knows them by Hugging Face's names, before any is read.

    Raises:
      ValueError: for a tensor that is not as the sizes say.
    """
    expected = llama.abstract(config)
    single = {name: expected[path].shape for path, name in _single_names(config).items()}
    layers = {name: _at(expected["layers"], path).shape[1:] for path, name in _layer_names(config)}
    every = (f"model.layers.{i}.{name}" for i in range(config.layers) for name in layers)
    for name in itertools.chain(single, every):
        wanted = single[name] if name in single else layers[name.split(".", 3)[3]]
        got = shape(name)
        turned = got[::-1] if name != "model.embed_tokens.weight" else got
        if turned != wanted:
            raise ValueError(f"{name}: got shape {turned}, expected {wanted} (transposed, if a matrix) as config.json says")


def gather(config: LlamaConfig, tensor: Tensor, dtype: Any = "float32") -> llama.Weights:
    """The model's weights from a function that knows Hugging Face's names, whose matrices are `[outputs, inputs]`.

    `check_shapes` has been called before.
    """

    def read(name: str) -> Any:
        value = tensor(name)
        return (value.T if name != "model.embed_tokens.weight" else value).astype(jnp.dtype(dtype))

    shapes = llama.abstract(config)
    layers: dict[str, Any] = {}
    for path, name in _layer_names(config):
        stack = np.empty(_at(shapes["layers"], path).shape, jnp.dtype(dtype))
        for i in range(config.layers):
            stack[i] = read(f"model.layers.{i}.{name}")
        _put(layers, path, jnp.asarray(stack))
    single = {path: jnp.asarray(read(name)) for path, name in _single_names(config).items()}
    return {**single, "layers": layers}


def scatter(config: LlamaConfig, weights: llama.Weights) -> dict[str, Any]:
    """The model's weights by Hugging Face's names, matrices as `[outputs, inputs]`."""
    tensors = {name: weights[path].T if path == "head" else weights[path] for path, name in _single_names(config).items()}
    for path, name in _layer_names(config):
        stack = _at(weights["layers"], path)
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


def _single_names(config: LlamaConfig) -> dict[str, str]:
    """The tensors that are no layer's."""
    names = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight"}
    return names if config.tied else names | {"head": "lm_head.weight"}


def _layer_names(config: LlamaConfig) -> list[tuple[tuple[str, ...], str]]:
    """A layer's tensors: where ours is, and the name of Hugging Face's after the layer's number."""
    names: list[tuple[tuple[str, ...], str]] = [((ours,), f"{theirs}.weight") for ours, theirs in NORMS.items()]
    names += [((ours, "kernel"), f"{theirs}.weight") for ours, theirs in MODULES.items()]
    return names + [((ours, "bias"), f"{MODULES[ours]}.bias") for ours in "qkv" if config.qkv_bias]


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """A value of a tree of dictionaries."""
    return functools.reduce(operator.getitem, path, tree)


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


def _check_inside(root: Path, file: Path) -> None:
    """Checks that a file is no link to somewhere else. In the hub's cache the files of a snapshot are links to its `blobs`."""
    home = root.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    target = file.resolve()
    if not any(target.is_relative_to(one) for one in homes):
        raise ValueError(f"{file}: got a link to {target}, expected a file inside {root}")


def _weight_files(root: Path) -> dict[str, str]:
    """The file of each tensor: of one file, of those that an index names, or of all shards where the index is missing.

    Raises:
      FileNotFoundError, ValueError: for none of these, saying what is there.
    """
    single, index = root / SINGLE, root / INDEX
    if single.is_file():
        if index.is_file():
            warnings.warn(f"{root}: got {SINGLE} and {INDEX}; {SINGLE} is read, as transformers does", stacklevel=4)
        return dict.fromkeys(read_header(single), SINGLE)
    if index.is_file():
        return _indexed(index)
    shards = sorted(path.name for path in root.glob("model-*-of-*.safetensors"))
    if not shards:
        pickles = ", ".join(sorted(path.name for path in root.glob("*.bin"))[:3])
        remedy = f"{pickles}: pickles, which can run any program and are not read; save_pretrained writes safetensors"
        raise FileNotFoundError(f"model: {root} holds {remedy if pickles else 'neither'}, expected {SINGLE} or {INDEX}")
    total = shards[0].removesuffix(".safetensors").rpartition("-of-")[2]
    count = min(int(total) if total.isdecimal() else 0, len(shards) + 1)  # the name of a file is no reason to allocate
    expected = [f"model-{i + 1:05}-of-{total}.safetensors" for i in range(count)]
    if shards != expected:
        missing = next((name for name in expected if name not in shards), "the same number of files in all names")
        raise FileNotFoundError(f"model: {root} holds {len(shards)} shards without {INDEX}, expected {missing}")
    return {name: shard for shard in shards for name in read_header(root / shard)}


def _indexed(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index says: plain names of safetensors files beside it."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(f"{index}: got weight_map of {type(files).__name__}, expected an object")
    for tensor, name in files.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors") or "\\" in name:
            raise ValueError(f"{index}: got the file {name!r} for {tensor}, expected the name of a safetensors file beside it")
    return files


class _Files:
    """The safetensors files of a directory, opened when needed, read a tensor at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file_of = _weight_files(root)
        self._headers = {name: read_header(_existing(root, name)) for name in sorted(set(self._file_of.values()))}
        self._open: dict[str, Any] = {}

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.__exit__(None, None, None)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        if name not in self._file_of:
            raise ValueError(f"model: {self._root} has no tensor {name}, which config.json asks for")
        file = self._file_of[name]
        if name not in self._headers[file]:
            raise ValueError(f"model: {self._root / file} has no tensor {name}, which {INDEX} says is in it")
        return self._headers[file][name].shape

    def tensor(self, name: str) -> Shaped[np.ndarray, "..."]:
        """One tensor."""
        import safetensors  # noqa: PLC0415

        file = self._file_of[name]
        try:
            if file not in self._open:
                self._open[file] = safetensors.safe_open(self._root / file, framework="flax").__enter__()
            return np.asarray(self._open[file].get_tensor(name))
        except safetensors.SafetensorError as error:
            raise ValueError(f"model: {self._root / file}: got what safetensors does not read ({error})") from error
