"""The driver's jitted step: gradients, update, checks, and then the new parameters."""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from hamu_jax import sharding
from hamu_jax._base import validate
from hamu_jax._driver.carry import Carry
from hamu_jax._driver.history_row import changes, changes_of_forget, inner, scalars
from hamu_jax._driver.protected import ProtectingGroups
from hamu_jax._driver.stopping import Halt, Stopping, watch
from hamu_jax._driver.trust_region import SETTLED, Trial, Trust, TrustRegion, judge, mean_of_present, rises_elsewhere
from hamu_jax._gradients.groups import Groups, group_means
from hamu_jax._gradients.losses import Loss, example_weights, mean_loss
from hamu_jax._gradients.paired import Paired, PairedGradient, paired_value_and_grad
from hamu_jax._transform.state import get_hardness
from hamu_jax.sharding._batches import replicated

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Step:
    """A step, and two of its stages as separate functions.

    Attributes:
      run: `run(carry, retain_batch, forget_batch, elsewhere=None, measure=False) -> (carry, row)`, jitted; the carry is
        donated. With a trust region `elsewhere` is another retain batch.
      sound: `sound(params, retain_batch, forget_batch)`, jitted: whether both losses are finite.
      propose: `propose(carry, retain_batch, forget_batch) -> Proposal`, not jitted.
    """

    run: Any
    sound: Any
    propose: Any


class Proposal(NamedTuple):
    """A step that is not taken yet.

    Attributes:
      values: the retain loss, and the forget losses `[m]`, one per request, or a single one.
      grads: the gradients of these losses.
      present: `[m]`, which requests have an example in the batch.
      asked: `[m]`, which of them are forget requests: all but the protected one.
      updates: the optimizer's updates.
      state: the optimizer's state after them.
    """

    values: Paired[Array]
    grads: Paired[Any]
    present: Bool[Array, " m"]
    asked: Bool[Array, " m"]
    updates: Any
    state: Any


def driver_step(
    losses: tuple[Loss, Loss],
    optimizer: optax.GradientTransformationExtraArgs,
    stopping: Stopping,
    *,
    microbatch_size: int | None,
    trust_region: TrustRegion | None = None,
    groups: Groups | None = None,
    mesh: Mesh | None = None,
    like: Carry | None = None,
) -> Step:
    """Builds the step; on a mesh it takes `Padded` batches, and carries with the shardings of `like`."""
    options: dict[str, Any] = {"forget_loss": losses[1], "microbatch_size": microbatch_size, "forget_groups": groups}
    if mesh is None:
        paired, shardings = paired_value_and_grad(losses[0], **options), None
    else:
        of_carry = jax.tree.map(lambda x: x.sharding, like)
        paired = sharding.paired_value_and_grad(losses[0], mesh, of_carry.params, **options)
        shardings = (of_carry, replicated(mesh))
    setup = _Setup(losses, paired, optimizer, stopping, trust_region, groups)
    run = jax.jit(functools.partial(_advance, setup), donate_argnums=0, static_argnames="measure", out_shardings=shardings)
    return Step(run, jax.jit(functools.partial(_sound, setup)), functools.partial(_propose, setup))


class _Setup(NamedTuple):
    """What a step is built from, before anything is traced."""

    losses: tuple[Loss, Loss]
    paired: PairedGradient
    optimizer: optax.GradientTransformationExtraArgs
    stopping: Stopping
    trust_region: TrustRegion | None
    groups: Groups | None


def _advance(
    setup: _Setup, carry: Carry, retain: Any, forget: Any, elsewhere: Any = None, *, measure: bool
) -> tuple[Carry, dict[str, Array]]:
    """Gradients, update, decision, and only then the new parameters."""
    proposal = _propose(setup, carry, retain, forget)
    hardness, length = get_hardness(proposal.state), jnp.sqrt(inner(proposal.updates, proposal.updates))
    values = Paired(proposal.values.retain, mean_of_present(proposal.values.forget, proposal.asked))
    row = scalars(values, proposal.state, many=setup.groups is not None)
    params, state = optax.apply_updates(carry.params, proposal.updates), proposal.state
    trust, settled, rises = carry.trust, jnp.bool_(False), jnp.bool_(False)
    if measure or isinstance(trust, Trust):
        trial = _measure(setup, proposal, carry.params, params, (retain, forget, elsewhere))
        row |= changes(trial, is_protecting=isinstance(setup.groups, ProtectingGroups))
        if setup.trust_region is not None and isinstance(trust, Trust):
            judgement = judge(trust, trial, setup.trust_region.level)
            row |= {"step_scale": trust.scale, "step_accepted": judgement.accepted, "trust_error": judgement.error}
            row |= {"retain_elsewhere": trial.elsewhere}
            params, state = _select(judgement.accepted, (params, state), (carry.params, carry.state))
            rises, trust, settled = rises_elsewhere(trust), judgement.trust, judgement.trust.settled >= SETTLED
    finite = jnp.all(hardness.finite) & jnp.isfinite(values.retain + values.forget)
    # A trust region refuses a step that is not finite; without one it ends the run.
    finite &= jnp.bool_(setup.trust_region is not None) | jnp.isfinite(length)
    decided, streaks = watch(setup.stopping, values, hardness, carry.streaks, finite=finite, rises=rises)
    decided = jnp.where((decided == Halt.RUNNING) & settled, jnp.int32(Halt.CONVERGED), decided)
    halt = jnp.where(carry.halt == Halt.RUNNING, decided, carry.halt)
    new = Carry(params, carry.params, state, streaks, halt, trust, carry.best)
    new = _select(halt == Halt.RUNNING, new, carry._replace(halt=halt))
    return new, {**row, "step_length": length, "halt": halt}


def _measure(setup: _Setup, proposal: Proposal, before: Any, after: Any, batches: tuple[Any, Any, Any]) -> Trial:
    """The changes of the losses from one point to another, promised and measured."""
    retain, forget, elsewhere = batches
    values, grads = proposal.values, proposal.grads
    promised = Paired(
        inner(grads.retain, proposal.updates),
        changes_of_forget(grads.forget, proposal.updates, many=setup.groups is not None),
    )
    measured = Paired(
        mean_loss(setup.losses[0], after, retain, "retain") - values.retain,
        _forget_losses(setup, after, forget) - values.forget,
    )
    rise = jnp.zeros_like(values.retain)
    if setup.trust_region is not None:
        old, new = (mean_loss(setup.losses[0], x, elsewhere, "retain") for x in (before, after))
        rise = new - old
    return Trial(values, promised, measured, rise, proposal.asked, proposal.present & ~proposal.asked)


def _select(condition: Bool[Array, ""], yes: T, no: T) -> T:
    """The first pytree where the condition holds, else the second. It is not a product with a mask: NaN times 0 is not 0."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), yes, no)


def _sound(setup: _Setup, params: Any, retain: Any, forget: Any) -> Bool[Array, ""]:
    """Whether both losses are finite."""
    return jnp.isfinite(mean_loss(setup.losses[0], params, retain, "retain") + jnp.sum(_forget_losses(setup, params, forget)))


def _forget_losses(setup: _Setup, params: Any, forget: Any) -> Float[Array, " m"]:
    """The mean forget loss of a batch: one per request, or a single one."""
    if setup.groups is not None:
        return group_means(setup.losses[1], params, forget, setup.groups)
    return mean_loss(setup.losses[1], params, forget, "forget")[None]


def _propose(setup: _Setup, carry: Carry, retain: Any, forget: Any) -> Proposal:
    """Gradients and update. A request without an example in the batch has no requirement."""
    values, grads = setup.paired(carry.params, retain, forget)
    extra, present = {"forget_value": values.forget}, jnp.ones(1, bool)
    if setup.groups is not None:
        weights = example_weights(setup.losses[1], forget, validate.batch("forget", forget), None)
        extra["forget_present"] = present = setup.groups.present(forget, weights)
    if isinstance(carry.trust, Trust):
        extra["step_scale"] = carry.trust.scale
    updates, state = setup.optimizer.update(grads.retain, carry.state, carry.params, forget_grads=grads.forget, **extra)
    if isinstance(carry.trust, Trust):
        scale = carry.trust.scale
        updates = jax.tree.map(lambda u: scale.astype(u.dtype) * u, updates)
    asked = present.at[-1].set(False) if isinstance(setup.groups, ProtectingGroups) else present
    return Proposal(Paired(values.retain, jnp.atleast_1d(values.forget)), grads, present, asked, updates, state)
