"""Training that ends without numbers, and records of runs that are cut off."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.runs import run_store, training


def test_a_model_that_is_not_finite_is_an_error() -> None:
    def loss(params: Any, rest: Any, batch: Any, key: Any) -> Any:
        del key
        return jnp.log(params["w"]) * jnp.mean(batch["x"]), rest

    data = {"x": np.ones(4, np.float32), "label": np.zeros(4, np.int32)}
    start, options = {"w": jnp.float32(1.0)}, {"steps": 2, "batch_size": 4, "seed": 0, "name": "full"}
    assert np.isfinite(training.fit(loss, start, (), data, optax.sgd(0.1), **options)[0]["w"])
    with pytest.raises(RuntimeError, match=r"^training the full model: got parameters that are not finite: take a lower"):
        training.fit(loss, start, (), data, optax.sgd(jnp.inf), **options)


def test_a_record_that_is_cut_off_is_named(tmp_path: Path) -> None:
    whole = json.dumps({"status": "completed", "steps": 3})
    for content in (whole[:-5], "", "[1]"):
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
        with pytest.raises(
            ValueError, match=r"run\.json: got .*, expected a JSON object; once this file is deleted, it is made again"
        ):
            run_store.read_run(tmp_path)
        with pytest.raises(ValueError, match=r"run\.json: got .* once this file is deleted"):
            run_store.measured_once(tmp_path / "run.json", dict)
    (tmp_path / "run.json").write_text(whole, encoding="utf-8")
    assert run_store.read_run(tmp_path) == {"status": "completed", "steps": 3}
