"""The mean loss of each request."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hamu_jax._base import validate
from hamu_jax._datasets.profiles import profile
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss, example_weights, per_example


def request_losses(
    loss: Loss, params: Any, data: Any, requests: Groups | None, *, batch_size: int, mesh: Mesh | None = None
) -> Float[np.ndarray, " m"]:
    """The mean loss of each request over a whole data set; without requests that of the whole set.

    Raises:
      ValueError: for a request without an example that counts.
    """
    size = validate.batch("forget", data)
    losses = profile(_example_losses, loss, params, data, batch_size, mesh=mesh)
    weights = np.asarray(example_weights(loss, data, size, None), np.float64)
    count = 1 if requests is None else requests.count
    member = np.zeros(size, int) if requests is None else np.asarray(requests.of(data))
    counted = (member >= 0) & (member < count) & (weights > 0)
    totals = np.bincount(member[counted], weights[counted], count)
    if np.any(totals == 0):
        missing = int(np.argmin(totals))
        raise ValueError(f"requests: got no example of request {missing} in the forget set, expected at least one for each")
    return np.bincount(member[counted], weights[counted] * losses[counted], count) / totals


def _example_losses(loss: Loss, params: Any, batch: Any) -> Float[Array, " batch"]:
    """The loss of each example."""
    return jnp.asarray(per_example(loss, params, batch, validate.batch("data", batch), "data"))
