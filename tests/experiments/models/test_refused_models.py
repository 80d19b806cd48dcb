"""Models and adapters that compute something else than ours are refused, and the error says what was found."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from llama_fixtures import DATA

from experiments.data import fictional
from experiments.language import task
from experiments.language.config import ModelSettings, Problem
from experiments.models import hf_config, hf_format, peft_format


def changed(tmp_path: Path, source: str, file: str, change: dict[str, Any]) -> Path:
    """A copy of a model's or adapter's directory with other values in a JSON file."""
    directory = tmp_path / source
    shutil.copytree(DATA / source, directory)
    values = json.loads((directory / file).read_text(encoding="utf-8")) | change
    (directory / file).write_text(json.dumps(values), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"init_lora_weights": "pissa_niter_16"}, "got init_lora_weights='pissa_niter_16', which changes the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
        ({"alora_invocation_tokens": [1, 2]}, r"got alora_invocation_tokens=\[1, 2\], expected none"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "got layer_replication="),
        ({"fan_in_fan_out": True}, "got fan_in_fan_out=True, expected none"),
        ({"target_modules": ".*_proj"}, r"got target_modules='\.\*_proj', expected a list of module names"),
        ({"r": "3"}, "got r='3', expected a number"),
    ],
)
def test_adapters_that_are_not_plain(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        peft_format.load(changed(tmp_path, "adapter", "adapter_config.json", change))


def test_an_adapter_of_twenty_million_layers(tmp_path: Path) -> None:
    directory = changed(tmp_path, "adapter", "adapter_config.json", {})
    tensors = safetensors.numpy.load_file(directory / "adapter_model.safetensors")
    name = next(iter(tensors))
    tensors[name.replace(".layers.0.", ".layers.20000000.").replace(".layers.1.", ".layers.20000000.")] = tensors.pop(name)
    safetensors.numpy.save_file(tensors, directory / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"layer 20000000 among \d+ tensors in .*adapter_model.safetensors"):
        peft_format.load(directory)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "got quantization_config="),
        ({"rms_norm_eps": "x"}, "got rms_norm_eps='x', expected a positive number"),
        ({"rms_norm_eps": float("nan")}, "got rms_norm_eps=nan"),
        ({"tie_word_embeddings": "no"}, "got tie_word_embeddings='no', expected true or false"),
        ({"num_hidden_layers": 10**9}, "got num_hidden_layers=1000000000, expected a whole number from 1 to 10000"),
        ({"vocab_size": None}, "got vocab_size=None, expected a whole number"),
        ({"num_attention_heads": 0}, "got num_attention_heads=0"),
        ({"rope_scaling": LLAMA3}, "got original_max_position_embeddings=None, expected a whole number"),
        ({"rope_scaling": "linear"}, "got rope_scaling='linear', expected an object"),
    ],
)
def test_sizes_that_cannot_be(change: dict[str, Any], match: str) -> None:
    values = json.loads((DATA / "llama2" / "config.json").read_text(encoding="utf-8"))
    values.pop("rope_parameters", None)
    with pytest.raises(ValueError, match=match):
        hf_config.parse(values | change)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantised_tensors(tmp_path: Path, dtype: str) -> None:
    directory = changed(tmp_path, "llama2", "config.json", {})
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].astype(np.dtype(dtype))
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"model.safetensors: got {name} in {'I8' if dtype == 'int8' else 'U8'}, expected one of F64"
    ):
        hf_format.load(directory)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"vocabulary": 40}, r"model: got the token \d+ in row 0, expected numbers below 40, the model's vocab_size"),
        (
            {"positions": 4},
            r"max_length: got None and \d+ tokens in row 0, expected at most 4, the model's max_position_embeddings",
        ),
    ],
)
def test_questions_that_the_model_cannot_take(tmp_path: Path, sizes: dict[str, Any], match: str) -> None:
    made = task.build_task(ModelSettings(out=tmp_path, problem=Problem(model="tiny")))
    network = dataclasses.replace(made.base.network, config=dataclasses.replace(made.base.network.config, **sizes))
    made = dataclasses.replace(made, base=dataclasses.replace(made.base, network=network))
    asked = fictional.load()[:1]
    for use in (made.tokens, lambda questions: made.answers({}, questions)):
        with pytest.raises(ValueError, match=match.replace("in row 0,", "in row 0.*,")):
            use(asked)
