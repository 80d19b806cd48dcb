"""One unlearning step under `jax.pmap`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from hamu_jax._base import device_axes
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss
from hamu_jax._gradients.paired import Paired, paired_value_and_grad
from hamu_jax._kernel.inner_products import Tree
from hamu_jax.sharding._batches import Padded


def pmap_step(
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    forget_loss: Loss | None = None,
    microbatch_size: int | None = None,
    forget_groups: Groups | None = None,
    axis_name: str = "devices",
) -> Any:
    """One unlearning step under `jax.pmap`: batches split over devices, gradients averaged, the same update on each.

    Args:
      loss: as in `paired_value_and_grad`.
      optimizer: an optax chain with one transform of this library, without `axis_name`: the gradients are averaged already.
      forget_loss: the loss of the forget batch if it is another one.
      microbatch_size: examples that are differentiated at once on each device.
      forget_groups: the requests, as in `paired_value_and_grad`.
      axis_name: of the pmapped axis.

    Returns:
      `step(params, state, retain, forget) -> (params, state, losses)`, with batches from `split_batch`, and parameters and
      state as on one device. The returned ones are on all devices, and the next call consumes them.

    Example:
      >>> import jax.numpy as jnp, hamu_jax
      >>> loss = lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2
      >>> tx = hamu_jax.hamu(0.1, 0.5, distribution="relative")
      >>> batch = hamu_jax.sharding.split_batch({"x": jnp.eye(2), "y": jnp.array([1.0, 2.0])}, jax.local_device_count())
      >>> params, state, losses = hamu_jax.sharding.pmap_step(loss, tx)(jnp.zeros(2), tx.init(jnp.zeros(2)), batch, batch)
      >>> print(losses.forget)
      2.5
    """
    paired = paired_value_and_grad(
        loss, forget_loss=forget_loss, microbatch_size=microbatch_size, forget_groups=forget_groups, axis_name=axis_name
    )

    def step(params: Tree, state: Any, retain: Padded, forget: Padded) -> tuple[Tree, Any, Paired[Array]]:
        weights = {"retain_weights": retain.weights, "forget_weights": forget.weights}
        losses, grads = paired(params, retain.batch, forget.batch, **weights)
        extra = {}
        if forget_groups is not None:
            present = forget_groups.present(forget.batch, forget.weights)
            extra["forget_present"] = device_axes.total(present.astype(jnp.int32), axis_name) > 0
        updates, state = optimizer.update(grads.retain, state, params, forget_grads=grads.forget, **extra)
        return optax.apply_updates(params, updates), state, losses

    return jax.pmap(step, axis_name, in_axes=(None, None, 0, 0), out_axes=None, donate_argnums=(0, 1))
