"""The driver's one jitted step, which looks before it leaps."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hamu_jax import _validate
from hamu_jax._blocks import partition, path_name
from hamu_jax._gradients import Loss, Paired, PairedGradient, mean_loss, paired_value_and_grad
from hamu_jax._gram import Tree, inner_products
from hamu_jax._hardness import Hardness, Regime
from hamu_jax._stopping import Halt, Stopping, watch
from hamu_jax._transform import get_hardness


class Carry(NamedTuple):
    """What one step hands to the next, on the device. Once `halt` is set nothing else changes.

    Attributes:
      params: the parameters.
      previous: those one step before, whose losses and gradients were finite.
      state: the optimizer's.
      streaks: for how many steps in a row each stopping condition has held.
      halt: a `Halt`.
    """

    params: Any
    previous: Any
    state: Any
    streaks: Int[Array, "3"]
    halt: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Step:
    """A step and its parts.

    Attributes:
      run: `run(carry, retain_batch, forget_batch, measure=False) -> (carry, row)`, jitted; the carry is donated.
      sound: `sound(params, retain_batch, forget_batch)`, jitted: whether both losses are finite.
      paired: the gradients of both losses.
      optimizer: the optax chain.
    """

    run: Any
    sound: Any
    paired: PairedGradient
    optimizer: optax.GradientTransformationExtraArgs


def first_carry(params: Any, optimizer: optax.GradientTransformationExtraArgs) -> Carry:
    """The carry before the first step. Parameters are copied, since every step consumes its carry.

    Raises:
      TypeError: if parameters are not floating-point.
      ValueError: if the optimizer does not hold one transform of ours.
    """
    _validate.gradients("params", params)
    # With a dtype the copies are not weakly typed: the step's results are not either, and it is traced once.
    copied = jax.tree.map(lambda x: jnp.array(x, x.dtype, copy=True), params)
    state = optimizer.init(copied)
    try:
        get_hardness(state)
    except ValueError as error:
        raise ValueError(f"optimizer: {error}: chain hamu_jax.transform or hamu_jax.combine into it") from None
    return Carry(copied, jax.tree.map(jnp.copy, copied), state, jnp.zeros(3, jnp.int32), jnp.int32(Halt.RUNNING))


def driver_step(
    losses: tuple[Loss, Loss],
    optimizer: optax.GradientTransformationExtraArgs,
    stopping: Stopping,
    microbatch_size: int | None,
) -> Step:
    """Builds the step: gradients, update, decision, and only then the new parameters."""
    paired = paired_value_and_grad(losses[0], forget_loss=losses[1], microbatch_size=microbatch_size)

    def values_of(params: Any, retain: Any, forget: Any) -> Paired[Array]:
        return Paired(mean_loss(losses[0], params, retain, "retain"), mean_loss(losses[1], params, forget, "forget"))

    @jax.jit
    def sound(params: Any, retain: Any, forget: Any) -> Array:
        return jnp.isfinite(sum(values_of(params, retain, forget)))

    @functools.partial(jax.jit, donate_argnums=0, static_argnames="measure")
    def run(carry: Carry, retain: Any, forget: Any, *, measure: bool) -> tuple[Carry, dict[str, Array]]:
        values, grads = paired(carry.params, retain, forget)
        updates, state = optimizer.update(grads.retain, carry.state, carry.params, forget_grads=grads.forget)
        hardness = get_hardness(state)
        params = optax.apply_updates(carry.params, updates)
        length = jnp.sqrt(_inner(updates, updates))
        finite = jnp.all(hardness.finite) & jnp.isfinite(values.retain + values.forget) & jnp.isfinite(length)
        decided, streaks = watch(stopping, values, hardness, finite, carry.streaks)
        halt = jnp.where(carry.halt == Halt.RUNNING, decided, carry.halt)
        row = {**_row(values, hardness), "step_length": length, "halt": halt}
        if measure:
            after = values_of(params, retain, forget)
            row |= {
                "retain_promised": _inner(grads.retain, updates),
                "retain_measured": after.retain - values.retain,
                "forget_promised": _inner(grads.forget, updates),
                "forget_measured": after.forget - values.forget,
            }
        new = Carry(params, carry.params, state, streaks, halt)
        return jax.tree.map(lambda x, old: jnp.where(halt == Halt.RUNNING, x, old), new, carry._replace(halt=halt)), row

    return Step(run, sound, paired, optimizer)


def blame(step: Step, carry: Carry, retain: Any, forget: Any) -> str:
    """Which tensor is not finite at these parameters, on these batches: done again on the host, after the fact."""
    values, grads = step.paired(carry.params, retain, forget)
    for name, value, grad in (("retain", values.retain, grads.retain), ("forget", values.forget, grads.forget)):
        where = _first_nonfinite(grad)
        if where is not None or not jnp.isfinite(value):
            tensor = f"its gradient is not finite in '{where}'" if where else "its gradient is finite"
            return f"the {name} loss is {float(value):.6g} and {tensor}"
    updates, _ = step.optimizer.update(grads.retain, carry.state, carry.params, forget_grads=grads.forget)
    where = _first_nonfinite(updates)
    if where is not None:
        return f"both gradients are finite, but the optimizer's update is not, in '{where}'"
    return "the gradients are finite, but their inner products overflow"


def _first_nonfinite(tree: Tree) -> str | None:
    """The path of the first leaf with an entry that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.all(jnp.isfinite(leaf)):
            return path_name(path)
    return None


def _inner(left: Tree, right: Tree) -> Float[Array, ""]:
    """The inner product of two whole pytrees, in float32 or wider."""
    return inner_products(left, right, partition(left, "global"))[0]


def _row(values: Paired[Array], hardness: Hardness) -> dict[str, Array]:
    """A history row's scalars."""
    regimes = {
        regime.name.lower(): jnp.mean(hardness.regime == regime)
        for regime in (Regime.DIRECT, Regime.RECTIFIED, Regime.COLLINEAR, Regime.INFEASIBLE)
    }
    return {
        "retain_loss": values.retain,
        "forget_loss": values.forget,
        "kappa": hardness.total_kappa,
        "kappa_1": hardness.total_kappa_1,
        "kappa_2": hardness.total_kappa_2,
        "retain_norm": hardness.total_retain_norm,
        "forget_norm": hardness.total_forget_norm,
        "cosine": hardness.total_cosine,
        "angle": hardness.total_angle,
        "improvement": hardness.total_improvement,
        "retain_change": hardness.total_retain_change,
        "forget_change": hardness.total_forget_change,
        "unavoidable": hardness.unavoidable,
        "stopping_quantity": hardness.stopping_quantity,
        "stopping_criterion": hardness.stopping_criterion,
        **regimes,
    }
