"""Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

import os
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data.text_files import read_json
from experiments.models import lora
from experiments.models.directories import new_directory
from experiments.models.hf_format import MODULES, open_tensors, write_json, write_tensors

PREFIX = "base_model.model.model.layers"
UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layers_to_transform",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "fan_in_fan_out",
)
# Ways to initialise an adapter that leave the base model's weights as they are. PiSSA, OLoRA, CorDA and LoftQ change them too.
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


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
        write_json(out / "adapter_config.json", values)
        write_tensors(out / "adapter_model.safetensors", tensors)


def load(directory: str | os.PathLike[str], *, dtype: Any = "float32") -> tuple[lora.LoraConfig, lora.Adapter]:
    """Reads an adapter that PEFT, or `save`, wrote.

    Returns:
      Its settings, and its parameters.

    Raises:
      FileNotFoundError: naming the file that is missing.
      ValueError: for an adapter that is not a plain LoRA of whole layers, naming what it has.
    """
    import safetensors.flax  # noqa: PLC0415

    root = Path(directory)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"adapter: {root / name} is not there, expected an adapter in PEFT's format")
    config = _config(read_json(root / "adapter_config.json"))
    file = root / "adapter_model.safetensors"
    with open_tensors(file):  # which checks the file's header and its dtypes
        tensors = safetensors.flax.load_file(file)
    numbers = (int(found[1]) for key in tensors if (found := re.search(r"\.layers\.(\d{1,18})\.", key)))
    layers = 1 + max(numbers, default=-1)
    if layers > len(tensors):
        raise ValueError(
            f"adapter: got a tensor of layer {layers - 1} among {len(tensors)} tensors in {file}, expected every layer"
        )
    expected = {_key(i, name, part) for i in range(layers) for name in config.targets for part in ("a", "b")}
    if set(tensors) != expected or not layers:
        odd = sorted(set(tensors) ^ expected)[:1]
        raise ValueError(f"adapter: got other tensors in {file} than adapter_config.json says, {odd} for one")
    return config, {name: {part: _stack(tensors, layers, name, part, dtype) for part in ("a", "b")} for name in config.targets}


def _config(values: dict[str, Any]) -> lora.LoraConfig:
    """The settings in an `adapter_config.json`."""
    if values.get("peft_type") != "LORA" or values.get("bias", "none") != "none":
        got = f"peft_type={values.get('peft_type')!r}, bias={values.get('bias')!r}"
        raise ValueError(f"adapter_config.json: got {got}, expected 'LORA' and 'none'")
    for name in UNSUPPORTED:
        if values.get(name):
            raise ValueError(f"adapter_config.json: got {name}={values[name]!r}, expected none")
    initialised = values.get("init_lora_weights", True)
    if initialised not in PLAIN_INITIALISATIONS:
        raise ValueError(
            f"adapter_config.json: got init_lora_weights={initialised!r}, which changes the base model's weights, "
            "expected one of true, false, 'gaussian', 'eva' and 'orthogonal': convert the adapter to plain LoRA with PEFT"
        )
    modules = values.get("target_modules")
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise ValueError(
            f"adapter_config.json: got target_modules={modules!r}, expected a list of module names, not a regular expression"
        )
    for name, kinds in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(values.get(name), kinds) or isinstance(values.get(name), bool):
            raise ValueError(f"adapter_config.json: got {name}={values.get(name)!r}, expected a number")
    ours = {theirs.split(".")[1]: name for name, theirs in MODULES.items()}
    unknown = set(modules) - set(ours)
    if unknown:
        raise ValueError(f"adapter_config.json: got target_modules {sorted(unknown)}, expected some of {', '.join(ours)}")
    targets = tuple(name for name in lora.TARGETS if MODULES[name].split(".")[1] in modules)
    return lora.LoraConfig(values["r"], float(values["lora_alpha"]), float(values.get("lora_dropout", 0.0)), targets)


def _key(layer: int, name: str, part: str) -> str:
    """PEFT's name of a matrix."""
    return f"{PREFIX}.{layer}.{MODULES[name]}.lora_{part.upper()}.weight"


def _stack(tensors: dict[str, Any], layers: int, name: str, part: str, dtype: Any) -> Any:
    """The matrices of all layers, inputs before outputs."""
    return jnp.asarray(np.stack([np.asarray(tensors[_key(i, name, part)]).T for i in range(layers)]), jnp.dtype(dtype))
