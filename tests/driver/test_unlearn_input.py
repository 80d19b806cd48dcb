"""What the driver says of input that cannot be, and of libraries that are missing."""

import re
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import FORGET, RETAIN, SGD, run, start

import hamu_jax
from hamu_jax import objectives


def logits(params: Any, batch: Any) -> Any:
    return jnp.stack([batch["x"] @ params["w"], jnp.zeros_like(batch["y"])], axis=-1)


LABELLED = {**FORGET, "label": np.where(np.arange(200) == 4, 2, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0, expected a whole number of at least 1"),
        ({"steps": 2.5}, "steps: got 2.5, expected a whole number of at least 1"),
        ({"seed": -1}, "seed: got -1, expected a whole number of at least 0"),
        ({"batch_size": 0}, "batch_size: got 0, expected a whole number of at least 1"),
        ({"batch_size": (4, True)}, "batch_size: got True, expected a whole number of at least 1"),
        ({"measure_every": -1}, "measure_every: got -1, expected a whole number of at least 0"),
        ({"microbatch_size": 0}, "microbatch_size: got 0, expected a whole number of at least 1"),
        ({"retain": {k: v[:0] for k, v in RETAIN.items()}}, "retain: got 0 examples, expected at least 1"),
        ({"forget": {**FORGET, "y": FORGET["y"][:5]}}, "forget: got 5 examples at 'y', expected 200 as at 'x'"),
        (
            {"forget": LABELLED, "forget_loss": objectives.cross_entropy(logits)},
            "forget['label']: got label 2 at example 4, expected 0 to 1, or -1 for padding",
        ),
        (
            {"optimizer": optax.sgd(0.1)},
            "optimizer: state: got 0 hamu_jax transforms in it, expected 1: chain hamu_jax.transform or hamu_jax.combine into",
        ),
        ({"optimizer": optax.chain(SGD, SGD)}, "optimizer: state: got 2 hamu_jax transforms in it, expected 1"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**options)


def test_parameters_must_be_floating_point() -> None:
    with pytest.raises(TypeError, match=re.escape("params: got int32 at 'w', expected a floating-point array")):
        run(params={**start(), "w": jnp.arange(3, dtype=jnp.int32)})


@pytest.mark.parametrize("module", ["rich.progress", "rich.console", "orbax.checkpoint"])
def test_a_missing_library_names_its_extra(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f'{module} is not installed: pip install "hamu_jax[driver]"')):
        run(checkpoints=hamu_jax.Checkpoints(tmp_path))
