"""Checks of the arguments of `unlearn` before anything is traced, and of numbers that are known only in a step."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from hamu_jax._base import validate
from hamu_jax._base.history import Row
from hamu_jax._datasets.batches import check_list, is_arrays
from hamu_jax._driver.stopping import Status
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import ROWS, Loss, check_counted, check_data, example_weights
from hamu_jax._gradients.paired import Paired
from hamu_jax._kernel.hardness import Hardness
from hamu_jax._transform.step_requests import Requests


def pair_of_sizes(batch_size: Any) -> tuple[int, int]:
    """The sizes of a retain and a forget batch.

    Raises:
      ValueError: for anything but a whole number or a pair of them.
    """
    if not isinstance(batch_size, (tuple, list)):
        size = validate.integer("batch_size", batch_size)
        return size, size
    try:
        retain, forget = batch_size
    except ValueError:
        expected = "a whole number or a pair of them, (retain, forget)"
        raise ValueError(f"batch_size: got {validate.shown(batch_size)}, expected {expected}") from None
    return validate.integer("batch_size", retain), validate.integer("batch_size", forget)


def check_functions(loss: Any, forget_loss: Any, optimizer: Any) -> None:
    """Checks that the losses can be called, that the optimizer is one, and what can be seen of its chain.

    Raises:
      TypeError: for something else.
      ValueError: for a chain in which the learning rate comes before the transform of ours: the transform would then see a
        retain gradient of the wrong sign and size.
    """
    validate.function("loss", loss, "loss(params, batch) -> [batch]")
    validate.function("forget_loss", forget_loss, "loss(params, batch) -> [batch]", optional=True)
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"optimizer: got {validate.shown(optimizer)}, expected an optax transformation: hamu_jax.hamu(...), or "
            "optax.chain(hamu_jax.transform(...), ...)"
        )
    reversing = None
    for stage in _stages(optimizer.update):
        if getattr(stage, "__module__", "").startswith("hamu_jax.") and reversing is not None:
            raise ValueError(
                f"optimizer: got a chain with {reversing} before hamu_jax's transform, expected it after: optax.chain("
                "hamu_jax.transform(...), optax.sgd(...)). The transform takes the retain gradient as it is"
            )
        reversing = reversing or _reversing(stage)


def check_sets(data: Paired[Any], losses: Paired[Loss], sizes: tuple[int, int], params: Any) -> list[int | None]:
    """Checks the retain and the forget set; returns their numbers of examples, None for an iterable.

    Raises:
      ValueError: naming the set.
    """
    examples: list[int | None] = []
    for name, value, loss in zip(Paired._fields, data, losses, strict=True):
        examples.append(check_data(name, value, loss, params) if is_arrays(value) else None)
    for name, value, loss, size in zip(Paired._fields, data, losses, sizes, strict=True):
        if is_arrays(value):
            check_counted(name, value, loss)
        else:
            check_list(name, value, size)
    return examples


def check_wrappers(state: Any) -> None:
    """Checks that no wrapper keeps steps back: in a step without an update nothing can be promised or measured.

    Raises:
      ValueError: naming the wrapper and what to use instead.
    """
    is_wrapper = lambda node: isinstance(node, optax.MultiStepsState)  # noqa: E731
    if any(is_wrapper(node) for node in jax.tree.leaves(state, is_leaf=is_wrapper)):
        raise ValueError(
            "optimizer: got optax.MultiSteps, expected none: it averages the retain gradient and takes the last forget "
            "gradient. Accumulate with microbatch_size=..., or take larger batches"
        )


def _stages(update: Any) -> list[Any]:
    """The update functions of a chain in their order, as far as closures of optax's own functions show them."""
    cells = _closure(update)
    if "update_fns" in cells:
        return [stage for update_fn in cells["update_fns"] for stage in _stages(update_fn)]
    if callable(getattr(cells.get("tx"), "update", None)):
        return _stages(cells["tx"].update)
    return [update]


def _reversing(stage: Any) -> str | None:
    """What a stage multiplies by, in words, if it is known to be negative."""
    cells, name = _closure(stage), getattr(stage, "__qualname__", "")
    value: Any = None
    if name.startswith("scale."):
        value = cells.get("step_size")
    elif name.startswith("scale_by_schedule.") and callable(cells.get("step_size_fn")):
        value = cells["step_size_fn"](0)
    if value is None or isinstance(value, Tracer) or np.ndim(value) != 0 or value >= 0:
        return None
    return f"a learning rate ({-float(value):.6g})"


def _closure(function: Any) -> dict[str, Any]:
    """The variables that a Python function closes over."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or cells is None:
        return {}
    return {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=True)}


def check_groups(groups: Groups | None, state: Any, forget: Any, loss: Loss) -> None:
    """Checks that there are as many groups as the optimizer has requests, each with an example in the forget set that counts.

    Raises:
      ValueError: for another number of requests; or naming the first without an example, if the forget set is known.
    """
    is_requests = lambda node: isinstance(node, Requests)  # noqa: E731
    counts = [len(node.change) for node in jax.tree.leaves(state, is_leaf=is_requests) if is_requests(node)]
    if (groups is None) == bool(counts):
        got, expected = ("None", "Groups") if groups is None else ("Groups", "None")
        with_axis = "with" if groups is None else "without"
        raise ValueError(f"forget_groups: got {got}, expected {expected} for an optimizer {with_axis} forget_axis=0")
    if groups is None:
        return
    if groups.count != counts[0]:
        raise ValueError(f"forget_groups: got count={groups.count}, expected {counts[0]} as in the optimizer's num_requests")
    if not is_arrays(forget):
        return
    size, present = validate.batch("forget", forget), np.zeros(groups.count, bool)
    for begin in range(0, size, ROWS):
        rows = jax.tree.map(lambda x, begin=begin: x[begin : begin + ROWS], forget)
        weights = example_weights(loss, rows, min(ROWS, size - begin), None)
        present |= np.asarray(groups.present(rows, weights))
        if present.all():
            return
    raise ValueError(
        f"forget_groups: got no example of request {int(np.argmin(present))} in forget, expected at least one (that is not "
        f"padding) of each of 0 to {groups.count - 1}"
    )


def outcome(rows: Sequence[Row], start: Any, params: Any, steps: int) -> tuple[Status, str]:
    """Status and reason of a run that took all its steps: whether anything can have come of them."""
    norms = [row["forget_norm"] for row in rows if "forget_norm" in row]
    if norms and not any(norms):
        return "ineffective", (
            f"all {steps} steps were taken, but the forget loss had no gradient at any of them: nothing was forgotten (is the "
            "loss constant, or all of the forget set padding?)"
        )
    if _is_unchanged(start, params):
        return "ineffective", f"all {steps} steps were taken, but no parameter has changed: nothing was forgotten"
    return "completed", f"all {steps} steps were taken"


def _is_unchanged(start: Any, params: Any) -> bool:
    """Whether no parameter has changed, as far as this process can see; ends at the first that has."""
    pairs = zip(jax.tree.leaves(start), jax.tree.leaves(params), strict=True)
    readable = all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves((start, params)))
    return readable and all(np.array_equal(np.asarray(old), np.asarray(new)) for old, new in pairs)


def unusable_budget(hardness: Hardness) -> str | None:
    """In words, a share of the required improvement or a radius that cannot be used; None if there is none."""
    if not jnp.all(jnp.isfinite(hardness.kappa) & jnp.isfinite(hardness.retain_norm) & jnp.isfinite(hardness.forget_norm)):
        return None  # shares and radii are made of these
    for name, values in (("share of the required improvement", hardness.improvement), ("radius", hardness.radius)):
        wrong = ~jnp.isfinite(values)
        if jnp.any(wrong):
            block = int(jnp.argmax(wrong))
            return (
                f"the {name} of block {block} is {float(values[block])}: a schedule or a distribution function returned a "
                "number that is negative or not finite"
            )
    return None
