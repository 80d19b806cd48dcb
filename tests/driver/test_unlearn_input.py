"""What the driver says of input that cannot be, and of libraries that are missing."""

import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from tiny_runs import FORGET, RETAIN, SGD, assert_same, run, start

import hamu_jax
from hamu_jax import Checkpoints, Evaluation, Stopping, Target, objectives


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
        (
            {"optimizer": optax.chain(hamu_jax.transform(0.5), SGD)},
            "optimizer: state: got 2 hamu_jax transforms in it, expected 1",
        ),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(**options)


NAMED_SPLITS = {"retain": RETAIN}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Evaluation(NAMED_SPLITS, every=-1), "every: got -1, expected a whole number of at least 1"),
        (lambda: Evaluation(NAMED_SPLITS, every=0), "every: got 0, expected a whole number of at least 1"),
        (lambda: Evaluation(NAMED_SPLITS, every=2.5), "every: got 2.5, expected a whole number of at least 1"),
        (lambda: Evaluation(NAMED_SPLITS, batch_size=0), "batch_size: got 0, expected a whole number of at least 1"),
        (lambda: Evaluation(RETAIN["x"]), "splits: got an array of shape (400, 3), expected a mapping from names to data sets"),
        (lambda: Evaluation(NAMED_SPLITS, {"a": 3}), "metrics['a']: got 3, expected a function metric(params, batch)"),
        (lambda: Target("forget_loss", at_least=np.nan), "at_least: got nan, expected a finite number"),
        (lambda: Target("forget_loss", at_most="low"), "at_most: got 'low', expected a finite number"),
        (lambda: Target(3, at_most=1.0), "column: got 3, expected a column's name"),
        (
            lambda: Stopping(targets=Target("a/loss", at_most=1.0)),
            "targets: got Target(column='a/loss', at_least=None, at_most=1.0), expected a tuple",
        ),
        (lambda: Stopping(targets=("forget_loss",)), "targets[0]: got 'forget_loss', expected a Target"),
        (lambda: Stopping(patience=3), "patience: got 3, expected a Patience or None"),
        (lambda: Checkpoints(""), "directory: got '', expected the path of a directory"),
        (lambda: Checkpoints(None), "directory: got None, expected the path of a directory"),
        (lambda: Checkpoints(__file__), f"directory: got {__file__!r}, expected a directory: {__file__} is a file"),
        (lambda: Checkpoints(f"{__file__}/a"), f"expected a directory: {__file__} is a file"),
        (lambda: hamu_jax.Groups("owner", 3), "of: got 'owner', expected a function of(batch) -> [batch]"),
        (lambda: hamu_jax.sharding.make_mesh(devices=[]), "devices: got list [], expected at least one device"),
        (lambda: run(mesh=Mesh(np.empty((0, 1, 1)), ("data", "objective", "fsdp"))), "mesh: got a mesh without devices"),
        (lambda: run(batch_size=(8,)), "batch_size: got (8,), expected a whole number or a pair of them"),
        (lambda: run(batch_size=(8, 4, 2)), "batch_size: got (8, 4, 2), expected a whole number or a pair of them"),
        (
            lambda: run(checkpoints="dir"),
            "checkpoints: got 'dir', expected a Checkpoints or None: checkpoints=Checkpoints(...)",
        ),
        (lambda: run(stopping=Target("a", at_most=1.0)), "expected a Stopping or None: stopping=Stopping(...)"),
        (lambda: run(evaluation={"a": RETAIN}), "expected a Evaluation or None"),
        (lambda: run(forget_groups=3), "forget_groups: got 3, expected a Groups or None"),
        (lambda: run(None), "optimizer: got None, expected an optax transformation: hamu_jax.hamu(...), or"),
        (lambda: run(hamu_jax.hamu), "optimizer: got the function hamu, expected an optax transformation"),
        (lambda: run(loss=3), "loss: got 3, expected a function loss(params, batch) -> [batch]"),
        (lambda: run(forget_loss="npo"), "forget_loss: got 'npo', expected a function"),
        (lambda: run(forget="a file"), "forget: got 'a file', expected arrays, or an iterable of batches"),
        (lambda: run(forget={**FORGET, "name": np.array(["a"] * 200)}), "forget: got text at 'name', expected numbers: leave"),
        (lambda: run(forget={**FORGET, "name": "a"}), "forget: got 'a' at 'name', expected an array"),
        (lambda: run(forget={"x": FORGET["x"]}), "forget_batch: got the keys 'x', expected 'y' too, which is read from it"),
        (
            lambda: run(forget={"x": FORGET["x"]}, forget_loss=objectives.cross_entropy(logits)),
            "forget: got the keys 'x', expected 'label' too",
        ),
    ],
)
def test_settings_of_a_wrong_kind(build: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    "before", [optax.sgd(0.02), optax.scale(-1.0), optax.chain(optax.identity(), optax.sgd(optax.constant_schedule(0.02)))]
)
def test_a_learning_rate_before_the_transform(before: Any) -> None:
    """Such a run completed and forgot nothing."""
    message = r"optimizer: got a chain with a learning rate \((0.02|1)\) before hamu_jax's transform, expected it after"
    with pytest.raises(ValueError, match=message):
        run(optax.chain(before, hamu_jax.transform(0.5)))
    with pytest.raises(ValueError, match="before hamu_jax's transform"):
        run(optax.chain(optax.chain(before), optax.chain(hamu_jax.transform(0.5), optax.sgd(0.1))))


def test_what_may_come_before_the_transform() -> None:
    run(optax.chain(optax.clip_by_global_norm(1.0), optax.scale(2.0), SGD), steps=1)


def test_multi_steps_is_named() -> None:
    """It ended as an overflow that did not happen."""
    with pytest.raises(ValueError, match=re.escape("optimizer: got optax.MultiSteps, expected none")):
        run(optax.MultiSteps(SGD, 2))


@pytest.mark.parametrize("keepdims", [True, False])
def test_a_list_of_examples(keepdims: bool) -> None:
    """It was taken for a list of batches, and `batch_size` was ignored. The cure that the error names gives the arrays."""
    rows = [{k: v[i : i + 1] if keepdims else v[i] for k, v in FORGET.items()} for i in range(200)]
    with pytest.raises(ValueError, match="forget: got a list of 200 single examples, expected arrays") as error:
        run(forget=rows)
    cure = re.search(r"arrays \((.*)\) or batches", str(error.value))
    assert cure is not None
    arrays = eval(cure[1], {"jax": jax, "np": np, "examples": rows})
    assert_same(run(forget=arrays, steps=2), run(steps=2))


def test_batches_of_one_example_are_possible() -> None:
    rows = [{k: v[i : i + 1] for k, v in FORGET.items()} for i in range(3)]
    assert run(forget=rows, batch_size=1, steps=2).status == "completed"


def test_numpy_integers(tmp_path: Any) -> None:
    """They are whole numbers; a checkpoint of such a run is one of the same run."""
    three, counts = np.int64(3), {"seed": np.uint8(0), "batch_size": (np.int64(8), np.int32(4)), "microbatch_size": np.int16(2)}
    got = run(steps=three, **counts, measure_every=np.int64(0), checkpoints=Checkpoints(tmp_path, every=three, keep=three))
    assert_same(run(steps=3, microbatch_size=2, checkpoints=Checkpoints(tmp_path)), got)


def test_parameters_must_be_floating_point() -> None:
    with pytest.raises(TypeError, match=re.escape("params: got int32 at 'w', expected a floating-point array")):
        run(params={**start(), "w": jnp.arange(3, dtype=jnp.int32)})


@pytest.mark.parametrize("module", ["rich.progress", "rich.console", "orbax.checkpoint"])
def test_a_missing_library_names_its_extra(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(f'{module} is not installed: pip install "hamu_jax[driver]"')):
        run(checkpoints=hamu_jax.Checkpoints(tmp_path))
