"""Checkpoints of a run, written by orbax: whole or not at all, resumed to the same bits."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hamu_jax._base import validate
from hamu_jax._base.history import History, Row, json_row
from hamu_jax._base.optional import require
from hamu_jax._driver import fingerprint
from hamu_jax._driver.fingerprint import Fingerprint

NOUNS = {"params": "starting parameters", "retain": "retain set", "forget": "forget set"}
CURE = "use another directory, or the same settings"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and how often it writes them.

    A call of `unlearn` with a directory that holds checkpoints of the same run goes on from the last one. `history.jsonl`
    beside them is replaced with each.

    Every checkpoint carries a fingerprint of what decides the run. A call whose fingerprint differs is an error that names what
    differs. It covers the content of the starting parameters and of both data sets (arrays, or a list of batches), all options
    of `unlearn` but `steps`, `mesh` and `progress`, and the code of losses, metrics and optimizer with the values that they
    close over. What cannot be told is not compared: the fields of objects of unknown classes, byte code of another Python
    version, the versions of libraries, and the content of an iterable that is not a list (of its batches the structure, shapes
    and dtypes are compared).

    The fingerprint costs one pass over parameters, data and evaluated splits at the start of `unlearn`, on every process:
    1,700 to 2,000 MB/s were measured on one core with SHA instructions, from memory, a memory map or a CPU device.

    Attributes:
      directory: of this run alone; made if need be.
      every: steps between checkpoints; the end is always kept.
      keep: how many to keep.
    """

    directory: str | os.PathLike[str]
    every: int = 100
    keep: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)) or not os.fspath(self.directory):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"directory: got {validate.shown(self.directory)}, expected the path of a directory")
        path = Path(self.directory)
        if file := next((str(x) for x in (path, *path.parents) if x.exists() and not x.is_dir()), None):
            raise ValueError(f"directory: got {str(path)!r}, expected a directory: {file} is a file")
        validate.integer("every", self.every)
        validate.integer("keep", self.keep)


class Store:
    """An open checkpoint directory; with `checkpoints=None` one that keeps nothing."""

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        settings: Mapping[str, Any],
        marks: Callable[[], Mapping[str, Fingerprint]] = dict,
    ) -> None:
        self._checkpoints = checkpoints
        self._settings = dict(settings)
        self._marks = {} if checkpoints is None else dict(marks())
        self._saved: Mapping[str, Fingerprint] = {}
        if checkpoints is not None:
            self._ocp = require("orbax.checkpoint", "driver")
            options = self._ocp.CheckpointManagerOptions(max_to_keep=checkpoints.keep, create=True)
            self._manager = self._ocp.CheckpointManager(Path(checkpoints.directory).absolute(), options=options)

    def restore(self, carry: Any, steps: int) -> tuple[Any, list[Row], Row]:
        """The last checkpoint: `(carry, history rows, how the run ended or {})`; without one `(carry, [], {})`.

        A run that had taken all its steps goes on if more are asked for.

        Raises:
          ValueError: if the directory holds another run's checkpoints, naming the setting that differs, or one that cannot be
            read.
        """
        step = None if self._checkpoints is None else self._manager.latest_step()
        if step is None:
            return carry, [], {}
        run = self._read(step, "run", self._ocp.args.JsonRestore())
        saved = {**run["settings"], "steps": step}
        for name, value in {**self._settings, "steps": min(steps, step)}.items():
            if saved.get(name) != value:
                differs = f"{name}={saved.get(name)!r}, expected {value!r}"
                raise ValueError(f"checkpoints: {self._manager.directory} holds a run with {differs}: {CURE}")
        self._compare(run.get("fingerprint"), run.get("python"))
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, carry)
        carry = self._read(step, "carry", self._ocp.args.StandardRestore(abstract))
        if run["end"].get("status") in ("completed", "ineffective") and step < steps:
            return carry, run["rows"][:step], {}
        return carry, run["rows"], run["end"]

    def _compare(self, saved: Mapping[str, Fingerprint] | None, python: str | None) -> None:
        """Raises if the checkpoint's fingerprint is not that of this run."""
        if saved is None:
            raise ValueError(
                f"checkpoints: {self._manager.directory} holds a run without a fingerprint, written by an earlier version of "
                "hamu_jax, expected one that says which data and settings it is of: use another directory"
            )
        if python != fingerprint.python_version():
            saved = {name: fingerprint.without_code(marks) for name, marks in saved.items()}
        self._saved = saved
        for name, marks in self._marks.items():
            self._compare_one(name, saved.get(name, {}), marks)

    def _compare_one(self, name: str, saved: Fingerprint, current: Fingerprint) -> None:
        """Raises if one thing differs."""
        if difference := fingerprint.difference(saved, current):
            path, before, now = difference
            raise ValueError(
                f"checkpoints: {self._manager.directory} holds a run with another {NOUNS.get(name, name)} ({path}: got "
                f"{before or 'nothing'}, expected {now or 'nothing'}): {CURE}"
            )

    def check_batches(self, name: str, batch: Any) -> None:
        """Compares what the batches of an iterable look like with those of the run that is continued.

        Raises:
          ValueError: if they differ.
        """
        if self._checkpoints is not None:
            key = f"{name} batches"
            self._marks[key] = fingerprint.of_first_batch(name, batch)
            if key in self._saved:
                self._compare_one(key, self._saved[key], self._marks[key])

    def _read(self, step: int, item: str, how: Any) -> Any:
        """One item of a checkpoint. An error of orbax, for damaged or foreign files, becomes one that says what to do."""
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**{item: how}))[item]
        except Exception as error:
            raise ValueError(
                f"checkpoints: {self._manager.directory / str(step)} cannot be read as a checkpoint of this run "
                f"({type(error).__name__}: {error}): remove it to go on from the one before, or use another directory"
            ) from error

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written before this step."""
        return self._checkpoints is not None and step > 0 and step % self._checkpoints.every == 0

    def save(self, step: int, carry: Any, rows: list[Row], end: Row) -> None:
        """Writes a checkpoint in the background, and the history beside it."""
        if self._checkpoints is None or (not end and self._manager.latest_step() == step):
            return
        args = self._ocp.args
        run = {"settings": self._settings, "rows": [json_row(row) for row in rows], "end": end}
        run |= {"fingerprint": self._marks, "python": fingerprint.python_version()}
        # A copy: the next step is given this carry's memory while the checkpoint is still being written.
        copied = jax.tree.map(jnp.copy, carry)
        saved = args.Composite(carry=args.StandardSave(copied), run=args.JsonSave(run))
        # The same step, now known to be the last, or one after it, whose losses turned out not to be finite.
        if stale := [number for number in self._manager.all_steps() if number >= step]:
            self._manager.wait_until_finished()
            for number in stale:
                self._manager.delete(number)
        self._manager.save(step, args=saved, force=True)
        History(rows).write(Path(self._checkpoints.directory) / "history.jsonl")

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._checkpoints is not None:
            self._manager.close()
