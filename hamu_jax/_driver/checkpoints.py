"""Checkpoints of a run, written by orbax: whole or not at all, resumed to the same bits."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hamu_jax._base import validate
from hamu_jax._base.history import History, Row, json_row
from hamu_jax._base.optional import require


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its checkpoints, and how often it writes them.

    A call of `unlearn` with a directory that holds checkpoints of the same run goes on from the last one. `history.jsonl`
    beside them is replaced with each.

    Attributes:
      directory: of this run alone; made if need be.
      every: steps between checkpoints; the end is always kept.
      keep: how many to keep.
    """

    directory: str | os.PathLike[str]
    every: int = 100
    keep: int = 2

    def __post_init__(self) -> None:
        validate.integer("every", self.every)
        validate.integer("keep", self.keep)


class Store:
    """An open checkpoint directory; with `checkpoints=None` one that keeps nothing."""

    def __init__(self, checkpoints: Checkpoints | None, settings: Mapping[str, Any]) -> None:
        self._checkpoints = checkpoints
        self._settings = dict(settings)
        if checkpoints is not None:
            self._ocp = require("orbax.checkpoint", "driver")
            options = self._ocp.CheckpointManagerOptions(max_to_keep=checkpoints.keep, create=True)
            self._manager = self._ocp.CheckpointManager(Path(checkpoints.directory).absolute(), options=options)

    def restore(self, carry: Any, steps: int) -> tuple[Any, list[Row], Row]:
        """The last checkpoint: `(carry, history rows, how the run had ended or {})`; what was given, and nothing, if none.

        A run that had taken all its steps goes on if more are asked for.

        Raises:
          ValueError: if the directory holds another run's checkpoints, naming the setting that differs, or one that cannot be
            read.
        """
        step = None if self._checkpoints is None else self._manager.latest_step()
        if step is None:
            return carry, [], {}
        run = self._read(step, "run", self._ocp.args.JsonRestore())
        held = {**run["settings"], "steps": step}
        for name, value in {**self._settings, "steps": min(steps, step)}.items():
            if held.get(name) != value:
                raise ValueError(
                    f"checkpoints: {self._manager.directory} holds a run with {name}={held.get(name)!r}, expected {value!r}: "
                    "use another directory, or the same settings"
                )
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, carry)
        carry = self._read(step, "carry", self._ocp.args.StandardRestore(abstract))
        if run["end"].get("status") == "completed" and step < steps:
            return carry, run["rows"][:step], {}
        return carry, run["rows"], run["end"]

    def _read(self, step: int, item: str, how: Any) -> Any:
        """A part of a checkpoint. Whatever orbax says of files that are damaged or not ours, the user hears what to do."""
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
        # A copy: the next step is given this carry's memory while the checkpoint is still being written.
        copied = jax.tree.map(jnp.copy, carry)
        saved = args.Composite(carry=args.StandardSave(copied), run=args.JsonSave(run))
        # The same step, now known to be the last, or one after it, whose losses turned out not to be finite.
        if stale := [held for held in self._manager.all_steps() if held >= step]:
            self._manager.wait_until_finished()
            for held in stale:
                self._manager.delete(held)
        self._manager.save(step, args=saved, force=True)
        History(rows).write(Path(self._checkpoints.directory) / "history.jsonl")

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._checkpoints is not None:
            self._manager.close()
