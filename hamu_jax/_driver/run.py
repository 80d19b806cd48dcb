"""A run under way: steps dispatched ahead of the host, evaluated, stopped and saved."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hamu_jax._base.history import Row, json_row
from hamu_jax._base.optional import require
from hamu_jax._datasets.evaluate import Evaluation
from hamu_jax._driver.blame import blame
from hamu_jax._driver.carry import Carry
from hamu_jax._driver.checkpoints import Store
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.settings_checks import outcome
from hamu_jax._driver.step import Step
from hamu_jax._driver.stopping import Halt, Stopping, after_evaluation, after_halt
from hamu_jax._gradients.losses import Loss

TAKEN = ("_length", "_promised", "_measured", "_accepted", "_error", "_elsewhere")  # columns about a step that was taken
AHEAD = 4  # steps that may be dispatched before the first of them is read: enough to keep the device fed


@dataclasses.dataclass
class Run:
    """A run under way."""

    step: Step
    carry: Carry
    pairs: Iterator[tuple[Any, ...]]
    rows: list[Row]
    loss: Loss
    evaluation: Evaluation | None
    stopping: Stopping
    keep: KeepBest | None
    store: Store
    measure_every: int
    mesh: Mesh | None
    start: Any  # the parameters before the first step
    last: Any = None
    pending: collections.deque[tuple[Row, Any, Any]] = dataclasses.field(default_factory=collections.deque)

    def until(self, steps: int, *, show: bool) -> Row:
        """Takes steps up to number `steps`; returns how many were taken, a status and a reason."""
        rich = require("rich.progress", "driver")
        console = require("rich.console", "driver").Console(stderr=True)
        begun = ("{task.description}", rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
        with rich.Progress(*begun, console=console, disable=not show) as bar:
            task = bar.add_task("unlearning", total=steps, completed=len(self.rows))
            for number in range(len(self.rows), steps):
                measured, end = self._before(number)
                end = end or self._dispatch(number, measured)
                bar.update(task, completed=len(self.rows), description=_progress_text(self.rows))
                if end:
                    return end
            end = self._collect(leave=0)
            bar.update(task, completed=len(self.rows))
        return end or self._completed(steps)

    def _completed(self, steps: int) -> Row:
        """The end of a run that took all its steps, unless the last one broke the model: no other follows to notice."""
        if self.last is not None and not self.step.sound(self.carry.params, *self.last[:2]):
            self.rows.append({"step": steps})
            return self._halted(Halt.NONFINITE, steps, self.last)
        self.rows.append({"step": steps})
        self._evaluate(self.rows[-1])
        status, reason = outcome(self.rows, self.start, self.carry.params, steps)
        return {"steps": steps, "status": status, "reason": reason}

    def _before(self, number: int) -> tuple[Row, Row | None]:
        """What is due before a step: a checkpoint, and an evaluation with its stopping conditions."""
        evaluate_now = self.evaluation is not None and number % self.evaluation.every == 0
        if not (evaluate_now or self.store.due(number)):
            return {}, None
        if end := self._collect(leave=0):
            return {}, end
        if self.store.due(number):
            self.store.save(number, self.carry, self.rows, {})
        measured: Row = {"step": number}
        if evaluate_now:
            self._evaluate(measured)
        if decision := after_evaluation(self.stopping, [*self.rows, measured], self.keep):
            self.rows.append(measured)
            return {}, {"steps": number, "status": decision[0], "reason": f"before step {number}: {decision[1]}"}
        return measured, None

    def _dispatch(self, number: int, measured: Row) -> Row | None:
        """Sends a step to the device, and reads those sent before it."""
        self.last = pair = next(self.pairs)
        measure = self.measure_every > 0 and number % self.measure_every == 0
        self.carry, row = self.step.run(self.carry, *pair, measure=measure)
        self.pending.append((measured or {"step": number}, row, pair))
        return self._collect(leave=_ahead(self.mesh))

    def _collect(self, *, leave: int) -> Row | None:
        """Reads the rows of dispatched steps, but for the last few; if one halted the run, ends it there."""
        while len(self.pending) > leave:
            measured, row, pair = self.pending.popleft()
            values = json_row(jax.device_get(row))
            halt = Halt(values.pop("halt"))
            if halt is not Halt.RUNNING:  # what is said of a step that was not taken would mislead
                values = {name: value for name, value in values.items() if not name.endswith(TAKEN)}
                self.pending.clear()
            self.rows.append({**measured, **values})
            if halt is not Halt.RUNNING:
                return self._halted(halt, measured["step"], pair)
        return None

    def _halted(self, halt: Halt, number: int, pair: Any) -> Row:
        """The end of a run that a step refused to go on with: the parameters are those before it."""
        status, reason = after_halt(halt)
        reason = f"before step {number}: {reason}"
        if halt is Halt.NONFINITE:
            reason = f"at step {number} {blame(self.step, self.carry, *pair[:2])}"
            number = max(number - 1, 0)  # the losses of these parameters were still finite
            self.carry = self.carry._replace(params=self.carry.previous)
        self._evaluate(self.rows[number])
        return {"steps": number, "status": status, "reason": reason}

    def _evaluate(self, row: Row) -> None:
        """Evaluates the present parameters into their row, as a checkpoint will hold it; keeps the best."""
        if self.evaluation is None:
            return
        row.update(json_row(self.evaluation.measure(self.loss, self.carry.params, self.mesh)))
        rows = self.rows if self.rows and self.rows[-1] is row else [*self.rows, row]
        if self.keep is not None and self.keep.best(rows) is row:
            self.carry = self.carry._replace(best=jax.tree.map(jnp.copy, self.carry.params))


def paired_batches(retain: Iterator[Any], forget: Iterator[Any], *, elsewhere: bool) -> Iterator[tuple[Any, ...]]:
    """The batches of each step; with `elsewhere` also the retain batch of the next step, which a trust region looks at."""
    if not elsewhere:
        return zip(retain, forget, strict=True)
    return ((here, batch, after) for (here, after), batch in zip(itertools.pairwise(retain), forget, strict=True))


def _ahead(mesh: Mesh | None) -> int:
    """How many steps may be dispatched ahead: none on several CPU devices, whose steps can deadlock."""
    return 0 if mesh is not None and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else AHEAD


def _progress_text(rows: list[Row]) -> str:
    """The newest losses, for the progress bar."""
    if not rows or None in (rows[-1].get("retain_loss"), rows[-1].get("forget_loss")):
        return "unlearning"
    return f"retain loss {rows[-1]['retain_loss']:.3f}, forget loss {rows[-1]['forget_loss']:.3f}"
