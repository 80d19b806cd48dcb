"""Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data.text_files import read_json
from experiments.models import lora
from experiments.models.directories import new_directory
from experiments.models.hf_format import MODULES, write_json, write_tensors
from experiments.models.safetensors_header import Tensor, read_header

PREFIX = "base_model.model.model.layers"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings that decide what is read, each looked at; and those that change nothing once an adapter has been trained.
READ = (
    "peft_type",
    "bias",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "init_lora_weights",
    "use_rslora",
)
WITHOUT_EFFECT = (
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config"),
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "layers_pattern", "eva_config", "ensure_weight_tying"),
)
# How A and B began. Others, such as pissa, olora, corda and loftq, change the base model's weights too.
PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


def save(directory: str | os.PathLike[str], config: lora.LoraConfig, adapter: lora.Adapter, *, base: str = "") -> None:
    """Writes an adapter that PEFT opens, whole or not at all.

    Args:
      directory: a new one.
      config: the adapter's settings.
      adapter: its parameters.
      base: the directory or the hub id of the model that it belongs to.

    Raises:
      FileExistsError: if `directory` holds something.
    """
    tensors = {}
    for name, own in adapter.items():
        for part in ("a", "b"):
            for i, matrix in enumerate(own[part]):
                # safetensors writes memory as it lies: of a numpy array's transpose that would be the array itself.
                tensors[_key(i, name, part)] = np.ascontiguousarray(np.asarray(matrix).T)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": [MODULES[name].split(".")[1] for name in config.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    with new_directory(directory) as out:
        write_json(out / CONFIG, values)
        write_tensors(out / WEIGHTS, tensors)


def load(directory: str | os.PathLike[str], *, dtype: Any = "float32") -> tuple[lora.LoraConfig, lora.Adapter]:
    """Reads an adapter that PEFT, or `save`, wrote.

    Where `target_modules` is a regular expression, the tensors of the file say which modules are adapted: a stranger's
    expression can take hours to match. An adapter of `use_rslora` is read with the `alpha` that has the same effect.

    Returns:
      Its settings, and its parameters.

    Raises:
      FileNotFoundError: naming the file that is missing.
      ValueError: for an adapter that is not a plain LoRA of whole layers, naming what it has; for files that are broken.
    """
    import safetensors.flax  # noqa: PLC0415

    root = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (root / name).is_file():
            pickled = (
                ", which holds adapter_model.bin, a pickle that is not read" if (root / "adapter_model.bin").is_file() else ""
            )
            raise FileNotFoundError(f"adapter: {root / name} is not there{pickled}, expected an adapter in PEFT's format")
    values, header = read_json(root / CONFIG), read_header(root / WEIGHTS)
    targets, layers = _adapted(root / WEIGHTS, header)
    _check_targets(root / CONFIG, values, targets, layers)
    config = _config(root / CONFIG, values, targets)
    _check_shapes(root / WEIGHTS, header, config, layers)
    try:
        tensors = safetensors.flax.load_file(root / WEIGHTS)
    except safetensors.SafetensorError as error:
        raise ValueError(f"adapter: {root / WEIGHTS}: got what safetensors does not read ({error})") from error
    return config, {name: {part: _stack(tensors, layers, name, part, dtype) for part in ("a", "b")} for name in config.targets}


def _adapted(path: Path, header: Mapping[str, Tensor]) -> tuple[tuple[str, ...], int]:
    """Which linear maps have A and B, and in how many layers: the same in all of them, from the first."""
    ours = {theirs: name for name, theirs in MODULES.items()}
    form = re.compile(rf"{re.escape(PREFIX)}\.(\d{{1,5}})\.([a-z_.]+)\.lora_[AB]\.weight")
    matches = {key: form.fullmatch(key) for key in header}
    odd = [key for key, match in matches.items() if match is None or match[2] not in ours]
    if odd or not header:
        raise ValueError(
            f"adapter: {path}: got {f'the tensor {odd[0]}' if odd else 'no tensors'}, expected A and B of linear maps"
        )
    adapted = {(int(match[1]), ours[match[2]]) for match in matches.values() if match}
    targets = tuple(name for name in lora.TARGETS if name in {module for _, module in adapted})
    layers = len({layer for layer, _ in adapted})
    missing = next((key for key in _keys(targets, layers) if key not in header), None)
    if missing is not None or len(header) != 2 * len(targets) * layers:
        wanted = missing or "no others"
        raise ValueError(
            f"adapter: {path}: got {len(header)} tensors of {layers} layers, expected {wanted}: all layers adapted alike"
        )
    return targets, layers


def _check_targets(path: Path, values: Mapping[str, Any], targets: Sequence[str], layers: int) -> None:
    """Checks that a list of target modules says what the tensors do, by the rules of PEFT."""
    wanted, left_out = values.get("target_modules"), values.get("exclude_modules") or []
    for name, value in (("target_modules", wanted), ("exclude_modules", left_out)):
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(module, str) for module in value)):
            raise ValueError(f"{path}: got {name}={value!r}, expected a regular expression or a list of modules")
    if isinstance(left_out, str) or (isinstance(wanted, str) and wanted != "all-linear"):
        return
    every = {f"model.layers.{i}.{module}": name for i in range(layers) for name, module in MODULES.items()}

    def listed(key: str, modules: Sequence[str]) -> bool:
        return any(key == module or key.endswith(f".{module}") for module in modules)

    chosen = {key for key in every if (wanted == "all-linear" or listed(key, wanted)) and not listed(key, left_out)}
    expected = {key for key, name in every.items() if name in targets}
    if isinstance(wanted, list):
        unknown = [module for module in wanted if not any(listed(key, [module]) for key in every)]
        if unknown:
            shown = ", ".join(module.split(".")[1] for module in MODULES.values())
            raise ValueError(f"{path}: got target_modules with {unknown[0]!r}, expected some of {shown}")
    if chosen != expected:
        odd = min(chosen ^ expected)
        raise ValueError(f"{path}: got target_modules {wanted}, and tensors that differ in {odd}, expected the same modules")


def _config(path: Path, values: Mapping[str, Any], targets: tuple[str, ...]) -> lora.LoraConfig:
    """The settings in an `adapter_config.json`."""
    if values.get("peft_type") != "LORA" or values.get("bias", "none") != "none":
        got = f"peft_type={values.get('peft_type')!r}, bias={values.get('bias')!r}"
        raise ValueError(f"{path}: got {got}, expected 'LORA' and 'none'")
    begun = values.get("init_lora_weights", True)
    if not any(begun is plain or (isinstance(begun, str) and begun == plain) for plain in PLAIN_INITIALISATIONS):
        expected = ", ".join(map(repr, PLAIN_INITIALISATIONS))
        raise ValueError(
            f"{path}: got init_lora_weights={begun!r}, expected one of {expected}: others change the base model's weights; "
            "PEFT can save such an adapter as plain LoRA (path_initial_model_for_weight_conversion)"
        )
    for name, value in values.items():
        unset = value is None or value is False or (isinstance(value, (str, list, dict)) and not value)
        if name not in READ + WITHOUT_EFFECT and not unset:
            raise ValueError(f"{path}: got {name}={value!r}, expected none: it is not a plain LoRA of whole layers")
    numbers = {name: values.get(name, default) for name, default in (("r", None), ("lora_alpha", None), ("lora_dropout", 0.0))}
    for name, value in numbers.items():
        if type(value) not in ((int,) if name == "r" else (int, float)) or not math.isfinite(value):
            raise ValueError(f"{path}: got {name}={value!r}, expected a {'whole ' if name == 'r' else ''}number")
    rank, alpha, dropout = numbers.values()
    factor = math.sqrt(rank) if values.get("use_rslora") and rank > 0 else 1.0  # its scale is alpha / sqrt(rank)
    return lora.LoraConfig(rank, float(alpha) * factor, float(dropout), targets)


def _check_shapes(path: Path, header: Mapping[str, Tensor], config: lora.LoraConfig, layers: int) -> None:
    """Checks that A is `[rank, inputs]` and B `[outputs, rank]`, the same in all layers."""
    for name in config.targets:
        for part, at in (("a", 0), ("b", 1)):
            first = header[_key(0, name, part)].shape
            for i in range(layers):
                key = _key(i, name, part)
                shape = header[key].shape
                if len(shape) != 2 or shape[at] != config.rank or shape != first:  # noqa: PLR2004  (a matrix)
                    raise ValueError(f"adapter: {path}: got {key} of shape {shape}, expected rank {config.rank} and {first}")


def _key(layer: int, name: str, part: str) -> str:
    """PEFT's name of a matrix."""
    return f"{PREFIX}.{layer}.{MODULES[name]}.lora_{part.upper()}.weight"


def _keys(targets: Sequence[str], layers: int) -> Iterator[str]:
    """PEFT's names of all matrices."""
    return (_key(i, name, part) for i in range(layers) for name in targets for part in ("a", "b"))


def _stack(tensors: dict[str, Any], layers: int, name: str, part: str, dtype: Any) -> Any:
    """The matrices of all layers, inputs before outputs."""
    return jnp.asarray(np.stack([np.asarray(tensors[_key(i, name, part)]).T for i in range(layers)]), jnp.dtype(dtype))
