"""The driver: one jitted step, dispatched ahead of the host, watched, evaluated, checkpointed."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from hamu_jax._base import validate
from hamu_jax._base.history import History, Row, json_row
from hamu_jax._base.optional import require
from hamu_jax._datasets.batches import batches, check_list, is_arrays
from hamu_jax._datasets.evaluate import Evaluation, check_split
from hamu_jax._driver import fingerprint
from hamu_jax._driver.checkpoints import Checkpoints, Store
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.settings_checks import check_functions, check_groups, outcome, pair_of_sizes
from hamu_jax._driver.step import Carry, Step, blame, driver_step, first_carry
from hamu_jax._driver.stopping import Halt, Status, Stopping, after_evaluation, after_halt, check_columns
from hamu_jax._driver.trust_region import TrustRegion
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss, check_counted, check_data
from hamu_jax.sharding._batches import groups_of_padded, of_padded
from hamu_jax.sharding._mesh import check_mesh

TAKEN = ("_length", "_promised", "_measured", "_accepted", "_error", "_elsewhere")  # columns about a step that was taken
AHEAD = 4  # steps that may be dispatched before the first of them is read: enough to keep the device fed


@dataclasses.dataclass(frozen=True)
class Unlearned:
    """What `unlearn` returns.

    Attributes:
      params: the parameters after `steps` updates; the last good ones if something was not finite. With `keep` the best.
      state: the optimizer's state after the last update that was made; after "nonfinite", after the one that was taken back.
      history: a row per step.
      steps: how many updates were made.
      status: why it ended. "ineffective": all steps were taken, but no parameter changed, or the forget loss never had a
        gradient.
      reason: the same in words.
      best_step: with `keep`, after how many updates the parameters were the best.
    """

    params: Any
    state: Any
    history: History
    steps: int
    status: Status
    reason: str
    best_step: int | None = None


def unlearn(
    loss: Loss,
    params: Any,
    retain: Any,
    forget: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    steps: int,
    batch_size: int | tuple[int, int] = 128,
    seed: int = 0,
    forget_loss: Loss | None = None,
    microbatch_size: int | None = None,
    evaluation: Evaluation | None = None,
    stopping: Stopping | None = None,
    checkpoints: Checkpoints | None = None,
    measure_every: int = 0,
    trust_region: TrustRegion | None = None,
    keep: KeepBest | None = None,
    forget_groups: Groups | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> Unlearned:
    """Runs an unlearning method: batches, steps, evaluation, stopping, checkpoints, history.

    Each step takes the gradients of both losses and the optimizer's update in one jitted call; the host runs a few steps
    ahead of the device and never waits within a step. Conditions that stop the run are decided on the device before an
    update is applied, so that being ahead changes nothing.

    Args:
      loss: `loss(params, batch) -> [batch]`, one loss per example; `hamu_jax.objectives` has some.
      params: the trained parameters, a pytree of floating-point arrays. They are copied, not consumed.
      retain: the retain set: a pytree of arrays (a mapping, tuple or array) with a leading example axis, shuffled anew each
        epoch; or any other iterable of batches (a list, a data loader), repeated when it ends.
      forget: the forget set, likewise.
      optimizer: an optax chain with one transform of this library: `hamu_jax.hamu(...)`, or
        `optax.chain(hamu_jax.transform(...), ...)`.
      steps: how many updates at most.
      batch_size: examples of either set in a batch, or a pair `(retain, forget)`. Used for arrays only.
      seed: of the order of examples.
      forget_loss: the loss of the forget set if it is another one.
      microbatch_size: as in `paired_value_and_grad`.
      evaluation: what to evaluate, and how often.
      stopping: when to stop early.
      checkpoints: where to keep checkpoints. If the directory holds some of this run, it goes on from the last one and ends
        with the same bits as if it had not been interrupted; so does a call with more `steps`. If it holds another run's, that
        is an error which names what differs (see `Checkpoints`, also for what comparing costs).
      measure_every: every `measure_every` steps, evaluate both losses again on the same batches after the update, beside
        the promise (two more forward passes). 0: never.
      trust_region: take steps only as long as they keep their promises; see `TrustRegion` for the cost. A refused step leaves
        parameters and optimizer as they were. None: steps are taken as they are.
      keep: return the best parameters that were evaluated instead of the last. It needs an `evaluation`.
      forget_groups: the requests, for an optimizer with `transform(..., forget_axis=0)`: see `paired_value_and_grad`. A
        request without an example in a forget batch has no constraint in that step, and is left out of means; a `batch_size`
        of the whole forget set has them all. `Groups(..., implicit=True)` never holds their gradients.
      mesh: run on its devices (`hamu_jax.sharding.make_mesh`): batches are split, filled up where they do not divide, and
        parameters too if the mesh says so. On many processes (`jax.distributed`) each makes the same call; of arrays it
        reads only the rows that its devices need, an iterable gives its share of every batch. Checkpoints can be resumed
        on another mesh.
      progress: show a progress bar on standard error (of the first process).

    Returns:
      The parameters, the history, and why the run ended.

    Raises:
      TypeError: if parameters are not floating-point.
      ValueError: for empty or uneven data, labels out of range (if the loss can check them), a column that `stopping` waits
        for and that is not evaluated, an optimizer without a transform of this library, or another run's checkpoints.
      ImportError: naming the extra, if a library of the driver is missing.
    """
    check_functions(loss, forget_loss, optimizer)
    settings = {
        "evaluation": (evaluation, Evaluation),
        "stopping": (stopping, Stopping),
        "checkpoints": (checkpoints, Checkpoints),
        "trust_region": (trust_region, TrustRegion),
        "keep": (keep, KeepBest),
        "forget_groups": (forget_groups, Groups),
    }
    for name, (value, kind) in settings.items():
        validate.instance(name, value, kind, optional=True)
    steps, seed = validate.integer("steps", steps), validate.integer("seed", seed, at_least=0)
    measure_every = validate.integer("measure_every", measure_every, at_least=0)
    microbatch_size = None if microbatch_size is None else validate.integer("microbatch_size", microbatch_size)
    sizes = pair_of_sizes(batch_size)
    stopping = stopping or Stopping()
    losses = (loss, loss if forget_loss is None else forget_loss)
    examples = [
        check_data(name, data, function, params) if is_arrays(data) else None
        for name, data, function in zip(("retain", "forget"), (retain, forget), losses, strict=True)
    ]
    check_columns(stopping, keep, () if evaluation is None else evaluation.columns())
    for name, data, function, size in zip(("retain", "forget"), (retain, forget), losses, sizes, strict=True):
        if is_arrays(data):
            check_counted(name, data, function)
        else:
            check_list(name, data, size)
    if evaluation is not None:
        for split, data in evaluation.splits.items():
            check_split(split, data, loss, evaluation.metrics, params)
    given_losses, given_groups = losses, forget_groups
    if mesh is not None:
        check_mesh(mesh)
        losses = of_padded(losses[0]), of_padded(losses[1])
        forget_groups = None if forget_groups is None else groups_of_padded(forget_groups)
    carry = first_carry(params, optimizer, mesh, trust_region=trust_region, keeps_best=keep is not None)
    check_groups(given_groups, carry.state, forget, given_losses[1])
    marks = functools.partial(
        fingerprint.of_run,
        params=params,
        data={"retain": retain, "forget": forget},
        losses=given_losses,
        optimizer=optimizer,
        state=carry.state,
        evaluation=evaluation,
        stopping=stopping,
        trust_region=trust_region,
        keep=keep,
        forget_groups=given_groups,
        microbatch_size=microbatch_size,
        measure_every=measure_every,
    )
    store = Store(checkpoints, {"seed": seed, "batch_size": list(sizes), "examples": examples}, marks)
    try:
        carry, rows, end = store.restore(carry, steps)
        if end:
            return _result(carry, rows, end, keep)
        start = len(rows)
        of_retain = batches("retain", retain, sizes[0], (seed, 0), start, mesh=mesh)
        of_forget = batches("forget", forget, sizes[1], (seed, 1), start, mesh=mesh)
        pairs = _pairs(of_retain, of_forget, elsewhere=trust_region is not None)
        first = next(pairs, None) if start < steps else None
        if first is not None:
            for name, data, batch in zip(("retain", "forget"), (retain, forget), first, strict=False):
                if not is_arrays(data):
                    store.check_batches(name, batch if mesh is None else batch.batch)
            pairs = itertools.chain([first], pairs)
        step = driver_step(
            losses,
            optimizer,
            stopping,
            microbatch_size=microbatch_size,
            trust_region=trust_region,
            groups=forget_groups,
            like=carry,
            mesh=mesh,
        )
        run = _Run(step, carry, pairs, rows, loss, evaluation, stopping, keep, store, measure_every, mesh, params)
        end = run.until(steps, show=progress and jax.process_index() == 0)
        store.save(end["steps"], run.carry, run.rows, end)
        return _result(run.carry, run.rows, end, keep)
    finally:
        store.close()


@dataclasses.dataclass
class _Run:
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


def _pairs(retain: Iterator[Any], forget: Iterator[Any], *, elsewhere: bool) -> Iterator[tuple[Any, ...]]:
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


def _result(carry: Carry, rows: list[Row], end: Row, keep: KeepBest | None) -> Unlearned:
    """What the caller is given."""
    best = None if keep is None else keep.best(rows)
    return Unlearned(
        carry.params if best is None else carry.best,
        carry.state,
        History(rows),
        end["steps"],
        end["status"],
        end["reason"],
        None if best is None else best["step"],
    )
