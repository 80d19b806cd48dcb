"""The driver's jitted step: gradients, update, checks, and then the new parameters."""

import dataclasses
import functools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jaxtyping import Array, Bool, Float, Int

from hamu_jax import sharding
from hamu_jax._base import validate
from hamu_jax._base.key_paths import path_name
from hamu_jax._driver.settings_checks import check_wrappers, unusable_budget
from hamu_jax._driver.stopping import Halt, Stopping, watch
from hamu_jax._driver.trust_region import SETTLED, Trial, Trust, TrustRegion, first_trust, judge, mean_of_present
from hamu_jax._gradients.groups import Groups, group_means
from hamu_jax._gradients.implicit_stack import ImplicitStack
from hamu_jax._gradients.implicit_stack_operations import stack_changes, stack_sum
from hamu_jax._gradients.losses import Loss, example_weights, mean_loss
from hamu_jax._gradients.paired import Paired, PairedGradient, paired_value_and_grad
from hamu_jax._kernel.blocks import partition
from hamu_jax._kernel.hardness import Regime
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype, cross_gram, inner_products
from hamu_jax._transform.state import get_hardness, get_requests
from hamu_jax.sharding._batches import replicated
from hamu_jax.sharding._mesh import shard_params

T = TypeVar("T")


class Carry(NamedTuple):
    """What one step hands to the next, on the device. Once `halt` is set nothing else changes.

    Attributes:
      params: the parameters.
      previous: the parameters before the last step, whose losses and gradients were finite.
      state: the optimizer's state.
      streaks: for how many steps in a row each stopping condition has held.
      halt: a `Halt`.
      trust: the trust region's memory; empty without one.
      best: the best parameters that were evaluated; empty if the last ones are returned.
    """

    params: Any
    previous: Any
    state: Any
    streaks: Int[Array, "3"]
    halt: Int[Array, ""]
    trust: Trust | tuple[()] = ()
    best: Any = ()


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
      updates: the optimizer's updates.
      state: the optimizer's state after them.
    """

    values: Paired[Array]
    grads: Paired[Any]
    present: Bool[Array, " m"]
    updates: Any
    state: Any


def first_carry(
    params: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh | None = None,
    *,
    trust_region: TrustRegion | None = None,
    keeps_best: bool = False,
) -> Carry:
    """The carry before the first step. Parameters are copied, since every step consumes its carry.

    On a mesh parameters are split over `fsdp`, and so are the optimizer's arrays for each of them.

    Raises:
      TypeError: if parameters are not floating-point.
      ValueError: if the optimizer does not contain exactly one transform of this library.
    """
    validate.gradients("params", params)
    # The dtype makes the copies strongly typed, as the step's results are, so that the step is traced once.
    placed = params if mesh is None else shard_params(params, mesh)
    copied = jax.tree.map(lambda x: jnp.array(x, x.dtype, copy=True), placed)
    state = optimizer.init(copied)
    check_wrappers(state)
    try:
        get_hardness(state)
    except ValueError as error:
        raise ValueError(f"optimizer: {error}: chain hamu_jax.transform or hamu_jax.combine into it") from None
    carry = Carry(
        params=copied,
        previous=jax.tree.map(jnp.copy, copied),
        state=state,
        streaks=jnp.zeros(3, jnp.int32),
        halt=jnp.int32(Halt.RUNNING),
        trust=() if trust_region is None else first_trust(trust_region),
        best=jax.tree.map(jnp.copy, copied) if keeps_best else (),
    )
    return _committed(carry) if mesh is None else jax.tree.map(lambda x: _on_mesh(x, mesh), carry)


def _committed(carry: Carry) -> Carry:
    """The whole carry on the device of its parameters, if they are committed to one, as restored ones are.

    The results of a step are committed if one of its arguments is: with a partly committed carry it would be compiled twice.
    """
    shardings = {x.sharding for x in jax.tree.leaves(carry) if x.committed}
    is_one_device = len(shardings) == 1 and all(isinstance(sharding, SingleDeviceSharding) for sharding in shardings)
    return jax.device_put(carry, shardings.pop()) if is_one_device else carry


def _on_mesh(x: Array, mesh: Mesh) -> Array:
    """The array itself if it is on the mesh already, else a copy on every device."""
    is_on_mesh = isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh
    return x if is_on_mesh else jax.device_put(x, replicated(mesh))


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
    values, grads, present, updates, state = _propose(setup, carry, retain, forget)
    before = values.forget
    values = Paired(values.retain, mean_of_present(before, present))
    row = _row(values, state, many=setup.groups is not None)
    params = optax.apply_updates(carry.params, updates)
    length = jnp.sqrt(_inner(updates, updates))
    trust, settled, hardness = carry.trust, jnp.bool_(False), get_hardness(state)
    if measure or setup.trust_region is not None:
        promised = Paired(_inner(grads.retain, updates), _changes(grads.forget, updates, many=setup.groups is not None))
        retain_after = mean_loss(setup.losses[0], params, retain, "retain")
        measured = Paired(retain_after - values.retain, _forget_losses(setup, params, forget) - before)
        row |= {"retain_promised": promised.retain, "retain_measured": measured.retain}
        row |= _forget_row(promised.forget, measured.forget, present)
        if setup.trust_region is not None and isinstance(trust, Trust):
            before_and_after = [mean_loss(setup.losses[0], x, elsewhere, "retain") for x in (carry.params, params)]
            retain_elsewhere = before_and_after[1] - before_and_after[0]
            trial = Trial(Paired(values.retain, before), promised, measured, retain_elsewhere, present)
            judgement = judge(trust, trial, setup.trust_region.level)
            row |= {"step_scale": trust.scale, "step_accepted": judgement.accepted, "trust_error": judgement.error}
            row |= {"retain_elsewhere": retain_elsewhere}
            old = (carry.params, carry.state)
            params, state = _select(judgement.accepted, (params, state), old)
            trust, settled = judgement.trust, judgement.trust.settled >= SETTLED
    finite = jnp.all(hardness.finite) & jnp.isfinite(values.retain + values.forget)
    # A trust region refuses a step that is not finite; without one it ends the run.
    finite &= jnp.bool_(setup.trust_region is not None) | jnp.isfinite(length)
    decided, streaks = watch(setup.stopping, values, hardness, finite, carry.streaks)
    decided = jnp.where((decided == Halt.RUNNING) & settled, jnp.int32(Halt.CONVERGED), decided)
    halt = jnp.where(carry.halt == Halt.RUNNING, decided, carry.halt)
    new = Carry(params, carry.params, state, streaks, halt, trust, carry.best)
    new = _select(halt == Halt.RUNNING, new, carry._replace(halt=halt))
    return new, {**row, "step_length": length, "halt": halt}


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
    return Proposal(Paired(values.retain, jnp.atleast_1d(values.forget)), grads, present, updates, state)


def blame(step: Step, carry: Carry, retain: Any, forget: Any) -> str:
    """Says which tensor is not finite at these parameters, on these batches, by repeating the step outside jit."""
    values, grads, present, updates, state = step.propose(carry, retain, forget)
    of_loss = (
        ("retain", values.retain, grads.retain),
        ("forget", mean_of_present(values.forget, present), _whole(grads.forget)),
    )
    for name, value, grad in of_loss:
        where = _first_nonfinite(grad)
        if where is not None or not jnp.isfinite(value):
            tensor = f"its gradient is not finite in '{where}'" if where else "its gradient is finite"
            return f"the {name} loss is {float(value):.6g} and {tensor}"
    where = _first_nonfinite(updates)
    if where is not None:
        return f"both gradients are finite, but the optimizer's update is not, in '{where}'"
    return unusable_budget(get_hardness(state)) or "the gradients are finite, but their inner products overflow"


def _whole(grads: Tree | ImplicitStack) -> Tree:
    """The gradients themselves; for an implicit stack the sum of its rows."""
    if not isinstance(grads, ImplicitStack):
        return grads
    blocks = partition(grads.params, "global")
    return stack_sum(grads, jnp.ones((1, grads.count), accumulation_dtype(grads.params)), blocks)


def _first_nonfinite(tree: Tree) -> str | None:
    """The path of the first leaf with an entry that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.all(jnp.isfinite(leaf)):
            return path_name(path)
    return None


def _inner(left: Tree, right: Tree) -> Float[Array, ""]:
    """The inner product of two whole pytrees, in float32 or wider."""
    return inner_products(left, right, partition(left, "global"))[0]


def _changes(grads: Tree | ImplicitStack, updates: Tree, *, many: bool) -> Float[Array, " m"]:
    """First-order changes of the forget losses: one per request (`many`), or a single one."""
    if isinstance(grads, ImplicitStack):
        return stack_changes(grads, updates)
    if not many:
        return _inner(grads, updates)[None]
    row = jax.tree.map(lambda x: x[None], updates)
    return cross_gram(grads, row, partition(updates, "global"))[0, :, 0]


def _forget_row(promised: Float[Array, " m"], measured: Float[Array, " m"], present: Bool[Array, " m"]) -> dict[str, Array]:
    """Promised and measured changes of the forget losses: the mean, and the smallest over the requests that are present."""
    row = {"forget_promised": mean_of_present(promised, present), "forget_measured": mean_of_present(measured, present)}
    if promised.size == 1:
        return row
    least = [jnp.min(jnp.where(present, values, jnp.inf)) for values in (promised, measured)]
    return row | {"least_promised": least[0], "least_measured": least[1]}


def _row(values: Paired[Array], state: Any, *, many: bool) -> dict[str, Array]:
    """A history row's scalars: both losses, the hardness of the whole model, the share of blocks in each regime."""
    hardness = get_hardness(state)
    whole = {name.removeprefix("total_"): value for name, value in hardness._asdict().items() if value.ndim == 0}
    regimes = {
        regime.name.lower(): jnp.mean(hardness.regime == regime)
        for regime in (Regime.DIRECT, Regime.RECTIFIED, Regime.COLLINEAR, Regime.INFEASIBLE)
    }
    row = {"retain_loss": values.retain, "forget_loss": values.forget, **whole, **regimes}
    if not many:
        return row
    requests = get_requests(state)
    return row | {"fraction": jnp.min(requests.fraction), "kkt": jnp.max(requests.kkt)}
