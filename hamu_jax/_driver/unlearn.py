"""The driver: one jitted step, dispatched ahead of the host, watched, evaluated, checkpointed."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from hamu_jax._base import validate
from hamu_jax._base.history import History, Row
from hamu_jax._datasets.batches import batches, is_arrays
from hamu_jax._datasets.evaluate import Evaluation, check_split
from hamu_jax._driver import fingerprint
from hamu_jax._driver.carry import Carry, first_carry
from hamu_jax._driver.checkpoints import Checkpoints, Store
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.run import Run, paired_batches
from hamu_jax._driver.settings_checks import check_functions, check_groups, check_sets, pair_of_sizes
from hamu_jax._driver.step import driver_step
from hamu_jax._driver.stopping import Status, Stopping, check_columns
from hamu_jax._driver.trust_region import TrustRegion
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss
from hamu_jax._gradients.paired import Paired
from hamu_jax.sharding._batches import groups_of_padded, of_padded
from hamu_jax.sharding._mesh import check_mesh


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
    settings = {
        "evaluation": (evaluation, Evaluation),
        "stopping": (stopping, Stopping),
        "checkpoints": (checkpoints, Checkpoints),
        "trust_region": (trust_region, TrustRegion),
        "keep": (keep, KeepBest),
        "forget_groups": (forget_groups, Groups),
    }
    check_functions(loss, forget_loss, optimizer)
    for name, (value, kind) in settings.items():
        validate.instance(name, value, kind, optional=True)
    steps, seed = validate.integer("steps", steps), validate.integer("seed", seed, at_least=0)
    measure_every = validate.integer("measure_every", measure_every, at_least=0)
    microbatch_size = None if microbatch_size is None else validate.integer("microbatch_size", microbatch_size)
    stopping = stopping or Stopping()
    losses, sizes = Paired(loss, loss if forget_loss is None else forget_loss), pair_of_sizes(batch_size)
    data = Paired(retain, forget)
    examples = check_sets(data, losses, sizes, params)
    check_columns(stopping, keep, () if evaluation is None else evaluation.columns())
    if evaluation is not None:
        for split, examples_of_split in evaluation.splits.items():
            check_split(split, examples_of_split, loss, evaluation.metrics, params)
    losses_of_step, groups_of_step = losses, forget_groups
    if mesh is not None:
        check_mesh(mesh)
        losses_of_step = Paired(*map(of_padded, losses))
        groups_of_step = None if forget_groups is None else groups_of_padded(forget_groups)
    carry = first_carry(params, optimizer, mesh, trust_region=trust_region, keeps_best=keep is not None)
    check_groups(forget_groups, carry.state, forget, losses.forget)
    marks = functools.partial(
        fingerprint.of_run,
        params=params,
        data=data._asdict(),
        losses=losses,
        optimizer=optimizer,
        state=carry.state,
        evaluation=evaluation,
        stopping=stopping,
        trust_region=trust_region,
        keep=keep,
        forget_groups=forget_groups,
        microbatch_size=microbatch_size,
        measure_every=measure_every,
    )
    store = Store(checkpoints, {"seed": seed, "batch_size": list(sizes), "examples": examples}, marks)
    try:
        carry, rows, end = store.restore(carry, steps)
        if end:
            return _result(carry, rows, end, keep)
        pairs = _checked_pairs(store, data, sizes, seed, range(len(rows), steps), mesh=mesh, elsewhere=trust_region is not None)
        step = driver_step(
            losses_of_step,
            optimizer,
            stopping,
            microbatch_size=microbatch_size,
            trust_region=trust_region,
            groups=groups_of_step,
            like=carry,
            mesh=mesh,
        )
        run = Run(step, carry, pairs, rows, loss, evaluation, stopping, keep, store, measure_every, mesh, params)
        end = run.until(steps, show=progress and jax.process_index() == 0)
        store.save(end["steps"], run.carry, run.rows, end)
        return _result(run.carry, run.rows, end, keep)
    finally:
        store.close()


def _checked_pairs(
    store: Store,
    data: Paired[Any],
    sizes: tuple[int, int],
    seed: int,
    steps: range,
    *,
    mesh: Mesh | None,
    elsewhere: bool,
) -> Iterator[tuple[Any, ...]]:
    """The batches of the steps, the first of an iterable checked against those of the run's checkpoint."""
    streams = [
        batches(name, examples, size, (seed, i), steps.start, mesh=mesh)
        for i, (name, examples, size) in enumerate(zip(Paired._fields, data, sizes, strict=True))
    ]
    pairs = paired_batches(*streams, elsewhere=elsewhere)
    first = next(pairs, None) if steps else None
    if first is None:
        return pairs
    for name, examples, batch in zip(Paired._fields, data, first, strict=False):
        if not is_arrays(examples):
            store.check_batches(name, batch if mesh is None else batch.batch)
    return itertools.chain([first], pairs)


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
