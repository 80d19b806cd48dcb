"""Checkpoints: an interrupted run ends with the bits of one that was not."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import tiny_runs
from tiny_runs import ADAMW, FORGET, RETAIN, assert_same, bits, examples, interrupted, plain, run

import hamu_jax
from hamu_jax import Checkpoints

EVALUATION = hamu_jax.Evaluation({"retain": RETAIN, "forget": FORGET}, every=3)


class Inner(NamedTuple):
    count: Any
    mean: Any


class Outer(NamedTuple):
    inner: Inner
    pair: tuple[Any, Any]


def averaging() -> optax.GradientTransformation:
    """Momentum in a state of nested named tuples, with an integer and a low-precision leaf."""

    def init(params: Any) -> Outer:
        return Outer(Inner(jnp.int32(0), jnp.zeros_like(params["w"])), (jnp.bfloat16(1.5), {"b": jnp.zeros_like(params["b"])}))

    def update(updates: Any, state: Outer, params: Any = None) -> tuple[Any, Outer]:
        del params
        mean = 0.5 * state.inner.mean + updates["w"]
        return {**updates, "w": mean}, Outer(Inner(state.inner.count + 1, mean), (-state.pair[0], {"b": updates["b"]}))

    return optax.GradientTransformation(init, update)


NESTED = optax.chain(hamu_jax.transform(0.5), averaging(), optax.sgd(0.03))


class Batches:
    """An iterable whose content cannot be told before it is read."""

    def __init__(self, content: list[Any]) -> None:
        self.content = content

    def __iter__(self) -> Iterator[Any]:
        return iter(self.content)


def stop_now() -> None:
    raise KeyboardInterrupt


def interrupt(directory: Path, at: int, optimizer: Any = ADAMW, every: int = 4, **options: Any) -> None:
    """A run that is interrupted when batch `at` is read."""
    with pytest.raises(KeyboardInterrupt):
        run(optimizer, forget=interrupted(FORGET, at, stop_now), checkpoints=Checkpoints(directory, every=every), **options)


@pytest.mark.parametrize(
    ("optimizer", "at", "options"),
    [
        (ADAMW, 10, {"evaluation": EVALUATION, "measure_every": 5}),
        (NESTED, 4, {}),  # the first checkpoint was only just begun
    ],
    ids=["adamw", "nested"],
)
def test_an_interrupted_run_goes_on(optimizer: Any, at: int, options: dict[str, Any], tmp_path: Path) -> None:
    whole = run(optimizer, **options)
    interrupt(tmp_path, at, optimizer, **options)
    held = hamu_jax.History.read(tmp_path / "history.jsonl").rows
    assert held == whole.history.rows[: at - at % 4]
    resumed = run(optimizer, checkpoints=Checkpoints(tmp_path, every=4), **options)
    assert_same(resumed, whole)
    assert hamu_jax.History.read(tmp_path / "history.jsonl").rows == whole.history.rows


def test_interrupted_before_the_first_checkpoint(tmp_path: Path) -> None:
    interrupt(tmp_path, 3)
    assert_same(run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4)), plain(ADAMW))


def test_interrupted_twice(tmp_path: Path) -> None:
    interrupt(tmp_path, 6)
    interrupt(tmp_path, 5)  # the resumed run's fifth batch is number 9
    assert len(hamu_jax.History.read(tmp_path / "history.jsonl").rows) == 8
    assert_same(run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4)), plain(ADAMW))


def test_only_what_is_missing_is_done_again(tmp_path: Path) -> None:
    interrupt(tmp_path, 10)
    with pytest.raises(KeyboardInterrupt):  # four steps are missing: the fifth batch is not read, the fourth is
        run(ADAMW, forget=interrupted(FORGET, 3, stop_now), checkpoints=Checkpoints(tmp_path, every=4))
    run(ADAMW, forget=interrupted(FORGET, 4, stop_now), checkpoints=Checkpoints(tmp_path, every=4))


def in_a_process(directory: Path, what: str, at: int) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, to which something happens."""
    command = [sys.executable, str(Path(tiny_runs.__file__)), str(directory), what, str(at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "at", "held"), [("reading", 10, 8), ("saving", 8, 4)])
def test_a_killed_process(what: str, at: int, held: int, tmp_path: Path) -> None:
    """In a step, and while a checkpoint is being written."""
    killed = in_a_process(tmp_path, what, at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(hamu_jax.History.read(tmp_path / "history.jsonl").rows) in {held, at - at % 4}
    assert_same(run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4)), plain(ADAMW))


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    failed = in_a_process(tmp_path, "full", 6)
    assert failed.returncode == 1
    assert "File too large" in failed.stderr
    assert len(hamu_jax.History.read(tmp_path / "history.jsonl").rows) == 4
    assert_same(run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4)), plain(ADAMW))


@pytest.mark.parametrize("damage", ["cut off", "foreign"])
def test_a_checkpoint_that_cannot_be_read(damage: str, tmp_path: Path) -> None:
    """It is named; without it the run goes on from the one before."""
    run(ADAMW, steps=8, checkpoints=Checkpoints(tmp_path, every=4))
    for path in (tmp_path / "8").rglob("*"):
        if path.is_file() and damage == "cut off":
            path.write_bytes(path.read_bytes()[:10])
    if damage == "foreign":
        shutil.rmtree(tmp_path / "8")
        with ocp.CheckpointManager(tmp_path) as manager:
            manager.save(8, args=ocp.args.StandardSave({"w": np.ones(3)}))
    with pytest.raises(
        ValueError, match=re.escape(f"checkpoints: {tmp_path / '8'} cannot be read as a checkpoint of this run")
    ):
        run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4))
    shutil.rmtree(tmp_path / "8")
    assert_same(run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4)), plain(ADAMW))


def test_iterables_are_wound_forward(tmp_path: Path) -> None:
    sets = {"retain": [examples(40 + i, 8) for i in range(5)], "forget": [examples(50 + i, 4) for i in range(3)]}

    class Failing:
        def __iter__(self) -> Any:
            yield from sets["forget"]
            raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        run(ADAMW, retain=sets["retain"], forget=Failing(), checkpoints=Checkpoints(tmp_path, every=2))
    assert_same(run(ADAMW, **sets, checkpoints=Checkpoints(tmp_path, every=2)), run(ADAMW, **sets))


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=5)
    first = run(ADAMW, checkpoints=checkpoints, evaluation=EVALUATION)
    unread = {"retain": interrupted(RETAIN, 0, stop_now), "forget": interrupted(FORGET, 0, stop_now)}
    assert_same(run(ADAMW, checkpoints=checkpoints, evaluation=EVALUATION, **unread), first)


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    # The stop falls on a step at which a checkpoint is due, too.
    few = {name: leaf[:20] for name, leaf in RETAIN.items()}
    options = {"retain": few, "forget": few, "batch_size": 20, "stopping": hamu_jax.Stopping(unavoidable=3)}
    first = run(checkpoints=Checkpoints(tmp_path, every=2), **options)
    assert (first.status, first.steps) == ("unavoidable", 2)
    assert_same(first, run(**options))
    options["retain"] = interrupted(few, 0, stop_now)
    assert_same(run(checkpoints=Checkpoints(tmp_path, every=2), **options), first)


@pytest.mark.parametrize("every", [100, 5, 4])  # never, at the bad step, at the last good one
def test_a_run_that_met_nan_stays_ended(every: int, tmp_path: Path) -> None:
    bad = examples(60, 4)
    bad["y"][0] = np.nan
    good = [examples(61 + i, 4) for i in range(5)]
    first = run(ADAMW, forget=Batches([*good, bad]), checkpoints=Checkpoints(tmp_path, every=every))
    assert (first.status, first.steps) == ("nonfinite", 4)
    # Returned at once: these batches would do.
    assert_same(run(ADAMW, forget=Batches(good), checkpoints=Checkpoints(tmp_path, every=every)), first)


@pytest.mark.parametrize("every", [3, 5])
def test_a_completed_run_goes_on_when_more_steps_are_asked_for(every: int, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=every)
    first = run(ADAMW, checkpoints=checkpoints, evaluation=EVALUATION, steps=5)
    assert first.steps == 5
    assert_same(run(ADAMW, checkpoints=checkpoints, evaluation=EVALUATION), run(ADAMW, evaluation=EVALUATION))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"seed": 1}, "seed=0, expected 1"),
        ({"batch_size": (8, 3)}, "batch_size=[8, 4], expected [8, 3]"),
        ({"forget": RETAIN}, "examples=[400, 200], expected [400, 400]"),
        ({"steps": 7}, "steps=8, expected 7"),
    ],
)
def test_another_runs_checkpoints(setting: dict[str, Any], message: str, one_run: Path) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"{one_run} holds a run with {message}: use another directory, or the same")
    ):
        run(ADAMW, **{"steps": 8, "checkpoints": Checkpoints(one_run), **setting})


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of eight steps."""
    directory = tmp_path_factory.mktemp("one_run")
    run(ADAMW, steps=8, checkpoints=Checkpoints(directory, every=3, keep=2))
    return directory


def test_what_is_kept(one_run: Path) -> None:
    assert sorted(path.name for path in one_run.iterdir()) == ["6", "8", "history.jsonl"]
    lines = (one_run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(9))


def test_resuming_survives_an_evaluation_that_is_not_finite(tmp_path: Path) -> None:
    """What JSON holds as null is no number to compare with."""
    nothing = {**FORGET, "y": np.full_like(FORGET["y"], np.nan)}
    options = {
        "evaluation": hamu_jax.Evaluation({"bad": nothing}, every=2),
        "stopping": hamu_jax.Stopping(
            patience=hamu_jax.Patience("bad/loss", 5), targets=(hamu_jax.Target("bad/loss", at_most=0.0),)
        ),
    }
    whole = run(ADAMW, **options)
    assert (whole.status, whole.steps) == ("patience", 10)
    interrupt(tmp_path, 9, **options)
    assert_same(run(ADAMW, checkpoints=Checkpoints(tmp_path, every=4), **options), whole)


@pytest.mark.parametrize("option", ["every", "keep"])
def test_counts(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}: got 0, expected a whole number of at least 1"):
        Checkpoints("somewhere", **{option: 0})


def test_a_relative_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(ADAMW, steps=2, checkpoints=Checkpoints("a/b"))
    assert (tmp_path / "a" / "b" / "2").is_dir()
    assert bits(first.params) == bits(plain(ADAMW, 2).params)
