"""Checks of the arguments of `forget` before anything is computed."""

import functools
from typing import Any

import jax

from hamu_jax._base import validate
from hamu_jax._datasets.batches import is_arrays
from hamu_jax._forget.band import chance_level
from hamu_jax._gradients.losses import Loss, check_counted, check_data, per_example
from hamu_jax._transform.level import Level
from hamu_jax._transform.options import check_options, check_rule
from hamu_jax.sharding._mesh import check_mesh


def check_forget(
    loss: Any,
    params: Any,
    sets: dict[str, Any],
    *,
    level: Any,
    rule: Any,
    blocks: Any,
    mesh: Any,
    max_cost: Any,
    protect_unseen: Any,
    **settings: tuple[Any, type],
) -> None:
    """Checks the arguments of `forget` that `unlearn` would see too late; `settings` are values and their classes.

    Raises:
      TypeError, ValueError: naming the argument.
    """
    validate.function("loss", loss, "loss(params, batch) -> [batch]")
    validate.gradients("params", params, some=True)
    for name, (value, kind) in settings.items():
        validate.instance(name, value, kind, optional=True)
    if rule is not None:
        check_rule("rule", rule)
    check_options(blocks, "uniform", None)
    if mesh is not None:
        check_mesh(mesh)
    if max_cost is not None:
        validate.constant("max_cost", max_cost)
    _check_level(level)
    _check_protection(protect_unseen, sets["unseen"], rule)
    _check_sets(loss, params, sets)
    if level is None and sets["unseen"] is None:
        raise ValueError(
            "level: got None with unseen=None, expected unseen=data of the same kind that the model was never trained on, or "
            f"level=the loss at which the forget set counts as forgotten{chance_level(loss, params, sets['forget'])}"
        )


def _check_level(level: Any) -> None:
    """Checks that a level is a finite number, or one for each request."""
    if level is None:
        return
    try:
        Level(level)
    except ValueError:
        expected = "a finite number, or one for each request"
        raise ValueError(f"level: got {validate.shown(level)}, expected {expected}") from None


def _check_protection(protect_unseen: Any, unseen: Any, rule: Any) -> None:
    """Checks that there is something to protect, and a rule that can."""
    if not isinstance(protect_unseen, bool):
        raise TypeError(f"protect_unseen: got {validate.shown(protect_unseen)}, expected True or False")
    if not protect_unseen:
        return
    if unseen is None:
        raise ValueError("protect_unseen: got True with unseen=None, expected unseen data to protect")
    if rule is not None and not rule.many:
        raise ValueError("protect_unseen: got True with a rule for one forget objective, expected rules.projected()")


def _check_sets(loss: Loss, params: Any, sets: dict[str, Any]) -> None:
    """Checks the data sets, of which `unseen` and `held_out` may be missing."""
    for name, data in sets.items():
        if data is None and name in ("unseen", "held_out"):
            continue
        if data is None or not is_arrays(data):
            raise ValueError(f"{name}: got {type(data).__name__}, expected a pytree of arrays with a leading example axis")
        size = check_data(name, data, loss, params)
        check_counted(name, data, loss)
        jax.eval_shape(functools.partial(per_example, loss, size=size, name=name), params, data)
