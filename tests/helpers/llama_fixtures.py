"""Tiny random models that transformers made and computed (tests/data/make_llama_fixtures.py), read once."""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shared_data import ROOT

from experiments.models import hf_format, llama

DATA = Path(__file__).parents[1] / "data" / "llama"
MODELS = ("llama2", "llama3", "qwen2")

forward = jax.jit(llama.forward, static_argnames="network")


@functools.cache
def model(name: str) -> tuple[llama.Network, Any]:
    """A tiny model."""
    config, weights = hf_format.load(DATA / name)
    return llama.Network(config), weights


def recorded(name: str) -> tuple[Any, Any]:
    """Tokens, and the logits that transformers, or PEFT, gave."""
    with np.load(DATA / name / "logits.npz") as file:
        return file["tokens"].astype(np.int32), file["logits"]


def smollm2() -> Path:
    """The converted SmolLM2-135M-Instruct: `$HAMU_JAX_MODELS`, or `models` below the repository's root. Skips without."""
    path = Path(os.environ.get("HAMU_JAX_MODELS") or ROOT / "models") / "smollm2-135m-instruct"
    if not (path / "model.safetensors").exists():
        pytest.skip(f"{path.name} is not in $HAMU_JAX_MODELS or models/: python -m experiments.language get-smollm2")
    return path
