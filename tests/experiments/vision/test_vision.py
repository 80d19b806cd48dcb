"""The experiments on images, at a scale of 256 images and 3 steps: every command and every sweep."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_runs import bits

from experiments.comparison.config import WITHOUT_AXIS, Pool
from experiments.comparison.pooling import pool_models
from experiments.comparison.settings import directory_name, values
from experiments.runs.config import replaced
from experiments.vision import commands, models, runs
from experiments.vision.comparison import IMAGES, sweep_images
from experiments.vision.config import Files, ModelSettings, Problem, Sweep, Training, Unlearning
from experiments.vision.report import write_report
from experiments.vision.task import Task, build_task

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")

# Up to eight images are not cut into chunks, and parts of one size are one program: compilation is what takes the time here.
TRAINING = Training(model="resnet8", epochs=1, batch_size=8, evaluations=2, augment=True, seed=0)
DATA: dict[str, Any] = {"dataset": "digits", "limit": 256, "validation": 100, "evaluated": 8, "forget_class": 3}
SMALL: dict[str, Any] = {**DATA, "training": TRAINING}
RUN: dict[str, Any] = {**SMALL, "steps": 3, "batch_size": 8, "evaluations": 1, "learning_rate": 0.1}
STEPS = 100  # of a run that is to be killed before they are taken
LINES = ("| retain/accuracy |", "| test forget/loss |", "| test membership |", "completed after 3 steps", "The run is in ")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all tests share, so that models are trained once."""
    return tmp_path_factory.mktemp("vision")


def model_settings(out: Path, **changed: Any) -> ModelSettings:
    return replaced(ModelSettings(), out=out, **{**SMALL, **changed})


def unlearning(out: Path, **changed: Any) -> Unlearning:
    return replaced(Unlearning(), out=out, **{**RUN, **changed})


def sweep(out: Path, **changed: Any) -> Sweep:
    return replaced(Sweep(), out=out, **{**RUN, **changed})


def task_of(settings: ModelSettings) -> Task:
    return build_task(settings.problem, settings.files)


def test_the_defaults_fit_digits() -> None:
    """Of 1,437 training images 5,000 would be held out, as of CIFAR-10's."""
    made = build_task(Problem(dataset="digits", training=TRAINING), Files())
    assert (len(made.train["label"]), len(made.validation["label"])) == (1157, 280)
    assert Problem().held_out == 5000
    with pytest.raises(ValueError, match="validation: got 5000, expected at least 1 and fewer than 1437"):
        build_task(Problem(dataset="digits", validation=5000, training=TRAINING), Files())


def test_parts(out: Path) -> None:
    made = task_of(model_settings(out, rho=0.5, evaluated=None))
    assert np.intersect1d(made.split.forget, made.split.retain).size == 0
    assert len(made.split.forget) + len(made.split.retain) == len(made.train["label"]) == 256
    assert len(made.validation["label"]) == 100
    easy = task_of(model_settings(out)).splits
    for name in ("forget", "validation forget", "test forget"):
        assert set(easy[name]["label"]) == {3}
    for name in ("retain", "validation retain", "test retain"):
        assert 3 not in easy[name]["label"]


@pytest.mark.slow
def test_every_command(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what is asked of it; what is there is read, not made again."""
    monkeypatch.setattr(sys, "argv", ["vision"])
    config = unlearning(out, tensorboard=True, measure_every=1)
    with pytest.raises(FileNotFoundError, match=r"no full model, expected one: python -m experiments.vision train"):
        commands.unlearn(config)
    for kind in ("full", "retrained"):
        assert "| test retain/accuracy |" in commands.train(config, kind)
    stamps = [path.stat().st_mtime_ns for path in out.glob("models/*/model.json")]
    said = commands.unlearn(config)
    assert [line for line in LINES if line not in said] == []
    place = runs.directory(config)
    record = json.loads((place / "run.json").read_text(encoding="utf-8"))
    assert list((place / "tensorboard").iterdir())
    assert len((place / "history.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    assert record["made"]["training"]["model"] == "resnet8"
    assert record["split"] == task_of(config).split.sha256
    assert set(record["models"]) == {"full", "retrained"}
    made = task_of(config)
    measured = models.measure(made, models.load(config, made, "full"), {"retain": made.splits["retain"]})
    assert record["models"]["full"]["retain/accuracy"] == pytest.approx(measured["retain/accuracy"])
    before = (place / "run.json").stat().st_mtime_ns
    assert f"| test membership | {record['models']['full']['test membership']:.4f} |" in commands.evaluate(config)
    assert (place / "run.json").stat().st_mtime_ns == before
    assert "## Conclusion" in write_report(config).read_text(encoding="utf-8")
    assert (place / "report" / "hardness.png").read_bytes().startswith(b"\x89PNG")
    again = json.loads((place / "run.json").read_text(encoding="utf-8"))
    assert (again["measured"], again["steps"]) == (record["measured"], 3)
    assert [path.stat().st_mtime_ns for path in out.glob("models/*/model.json")] == stamps


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES.sweeps)
def test_every_sweep(out: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vision", "sweep", name])
    few = {"methods": ("ft", "hamu-q")} if name in (*WITHOUT_AXIS, "rho") else {"methods": ("hamu-q",)}
    wanted = {"values": ("4", "8")} if name == "batch-size" else {}
    config = sweep(out, smoke=True, **few, **wanted)
    path = sweep_images(config, name)
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert record["settings"]["command"] == f"python -m experiments.vision sweep {name}"
    if name in IMAGES.axes:
        expected = {(method, value) for method in few["methods"] for value in values(IMAGES, name, config)}
        assert {(point["method"], point["value"]) for point in record["points"]} == expected
        assert (
            f"{len(expected)} of {len(expected)}: {few['methods'][-1]}, {IMAGES.axes[name].setting} " in capsys.readouterr().err
        )
        stamps = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/run.json")}
        sweep_images(config, name)
        assert stamps == {file: file.stat().st_mtime_ns for file in out.glob("runs/*/run.json")}


@pytest.mark.slow
def test_chosen_settings_are_run_on_another_model(out: Path) -> None:
    """What a sweep chose, no grid; and both tables make one."""
    grid = {"learning_rates": (0.01, 0.1), "improvements": (0.3,), "weights": (0.5,), "extensions": 0}
    few = {"methods": ("ft", "hamu-q"), "seeds": (1,), **grid}
    first = sweep_images(sweep(out / "first", **few), "baselines").with_suffix(".json")
    other = {"methods": ("ft", "hamu-q"), "seeds": (2,), "training": dataclasses.replace(TRAINING, seed=1)}
    second = sweep_images(sweep(out / "second", chosen=first, **other), "baselines").with_suffix(".json")
    held = [json.loads(path.read_text(encoding="utf-8")) for path in (first, second)]
    for method in ("ft", "hamu-q"):
        assert held[1]["methods"][method]["setting"] == held[0]["methods"][method]["setting"]
        assert held[1]["methods"][method]["numbers"]["hypervolume"] is None
    assert len(list((out / "second").glob("runs/*/run.json"))) == 2
    assert f"Settings are those that {first} chose" in second.with_suffix(".md").read_text(encoding="utf-8")
    text = pool_models(Pool((first, second), out / "pooled"))
    assert "over 2 trained models" in text.read_text(encoding="utf-8")
    rows = json.loads(text.with_suffix(".json").read_text(encoding="utf-8"))["methods"]
    gaps = [one["methods"]["hamu-q"]["numbers"]["gap"][0] for one in held]
    np.testing.assert_allclose(rows["hamu-q"]["numbers"]["gap"], [np.mean(gaps), np.std(gaps, ddof=1)])
    assert text.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_results_are_named_by_their_problem() -> None:
    assert directory_name(IMAGES, "rho", replaced(Sweep(), rho=1.0)) == "rho"
    assert directory_name(IMAGES, "stopping", replaced(Sweep(), rho=0.0)) == "stopping-rho0.5"
    assert directory_name(IMAGES, "constraint", replaced(Sweep(), rho=0.25)) == "constraint-rho0.25"
    assert directory_name(IMAGES, "baselines", replaced(Sweep(), rho=1.0)) == "baselines-rho1"


@pytest.mark.slow
def test_training_that_was_killed_goes_on_to_the_same_model(tmp_path: Path) -> None:
    """From its checkpoint after half of the steps."""
    config = model_settings(tmp_path / "whole")
    whole = models.train_or_load(config, task_of(config), "full")
    broken = dataclasses.replace(config, out=tmp_path / "broken")
    made, calls = task_of(broken), []

    def killed(*args: Any) -> float:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args)

    measure = models.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            models.train_or_load(broken, made, "full")
    resumed = models.train_or_load(broken, made, "full")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    """With SIGKILL in its second run; what was finished is not made again."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert begin(whole).wait() == 0
    for made in ("models", "programs"):  # compilation is what takes the time here
        shutil.copytree(whole / made, broken / made)
    killed = begin(broken)
    first = wait_for_the_second_run(broken, killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert list(broken.glob("runs/*/run.json")) == [first]
    stamp = first.stat().st_mtime_ns
    assert begin(broken).wait() == 0
    assert first.stat().st_mtime_ns == stamp
    assert left(broken) == left(whole)


def begin(out: Path) -> subprocess.Popen[bytes]:
    """A sweep of two runs, in a process of its own."""
    options = f"--smoke --out {out} --methods hamu-q --dataset digits --limit 256 --validation 100 --evaluated 8"
    options += " --forget-class 3 --training.model resnet8 --training.epochs 1 --training.batch-size 8"
    options += f" --training.evaluations 1 --steps {STEPS} --batch-size 8 --evaluations 1 --learning-rate 0.001"
    options += " --checkpoint-every 5"
    command = [sys.executable, "-m", "experiments.vision", "sweep", "optimizer", *options.split()]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_the_second_run(out: Path, process: subprocess.Popen[bytes]) -> Path:
    """Until it has a whole checkpoint; the record of the first."""
    while process.poll() is None:
        finished = list(out.glob("runs/*/run.json"))
        begun = {path.parents[1] for path in out.glob("runs/*/checkpoints/*") if path.name.isdigit()}
        if finished and len(begun) > len(finished):
            return finished[0]
        time.sleep(0.01)
    raise AssertionError(f"the sweep ended by itself: {process.returncode}")


def left(out: Path) -> dict[str, Any]:
    """All that a sweep leaves, but for what it began with, the date and how long it took."""
    found: dict[str, Any] = {}
    for path in itertools.chain(out.glob("runs/*/run.json"), out.glob("optimizer*/optimizer.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[str(path.relative_to(out))] = {
            key: record[key] for key in record if key not in ("environment", "settings", "seconds")
        }
    for path in out.glob("runs/*/checkpoints/history.jsonl"):
        found[str(path.relative_to(out))] = path.read_text(encoding="utf-8")
    for path in out.glob(f"runs/*/checkpoints/{STEPS}/carry"):
        with ocp.StandardCheckpointer() as reader:
            found[str(path.relative_to(out))] = bits(reader.restore(path))
    assert len(found) == 1 + 2 * 3  # the table; of each run a record, a history, and what it ended with
    return found


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("rhos", {}, "name: got 'rhos', expected one of rho, batch-size"),
        ("rho", {"methods": ("gd",)}, "methods: got 'gd', expected some of ft, ga"),
        ("rho", {"values": ("half",)}, "values: got 'half', expected floats"),
        ("baselines", {"seeds": (0, 1), "grid_seeds": (2,)}, r"grid_seeds: got \(2,\), expected some of seeds, \(0, 1\)"),
        ("timing", {"values": ("1",)}, "values: got .*, expected none: timing varies the method"),
        ("rho", {"chosen": Path("x.json")}, "chosen: got x.json, expected none: only equal-forgetting and baselines choose"),
        ("baselines", {"chosen": Path("x.json")}, "chosen: got x.json, which is not there"),
    ],
)
def test_what_is_asked_of_a_sweep_is_checked(tmp_path: Path, name: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep_images(replaced(Sweep(), out=tmp_path, **changed), name)
    assert not list(tmp_path.glob("runs/*"))
    assert not list(tmp_path.glob("models/*"))


def test_a_model_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = model_settings(tmp_path)
    place = models.model_directory(config, "full")
    place.mkdir(parents=True)
    (place / "settings.json").write_text(json.dumps({"dataset": "mnist"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset: got 'digits', but .* has a model with 'mnist'"):
        models.train_or_load(config, task_of(config), "full")
