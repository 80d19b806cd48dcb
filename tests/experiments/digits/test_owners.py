"""The owners' experiment: its plumbing at reduced scale."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.digits.config import Owners
from experiments.digits.owners import compare_promises


@pytest.mark.slow
def test_the_experiment(tmp_path: Path) -> None:
    with_few = Owners(tmp_path, owners=4, held=5, epochs=2, steps=3)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as users have it; optax needs it
        path = compare_promises(with_few)
    record = json.loads((tmp_path / "owners.json").read_text(encoding="utf-8"))
    assert list(record["models"]) == ["full", "mean", "every owner", "retrained"]
    assert all(len(model["owners"]) == 4 for model in record["models"].values())
    for model in record["models"].values():
        np.testing.assert_allclose(np.mean(model["owners"]), model["forget/loss"], rtol=1e-5)
    promised = np.array(record["first_step"]["every owner"]["promised"])
    assert np.all(promised > 0), "nobody is promised nothing"
    assert "owners.png" in path.read_text(encoding="utf-8")
    assert (tmp_path / "owners.png").read_bytes().startswith(b"\x89PNG")
