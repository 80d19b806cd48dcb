"""Hostile values for every argument of a table of public functions, a fixed number of calls.

The oracle: a value that the argument takes gives a result; any other gives a ValueError or TypeError that names the argument,
what came and what was expected. What is neither is counted and printed.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import FORGET, RETAIN, SGD, examples, loss, run, start

import hamu_jax
from hamu_jax import metrics, objectives, rules, sharding


class Kind(NamedTuple):
    """What an argument takes.

    Attributes:
      takes: whether it takes a value.
      extra: hostile values of this kind alone.
    """

    takes: Callable[[Any], bool]
    extra: tuple[Any, ...] = ()


class Unprintable:
    """An object that can't be shown, compared or measured."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


HOSTILE: tuple[Any, ...] = (
    None, True, np.True_, "text", "", b"bytes", {}, {"a": 1}, [], [1.0, 2.0], (), (1, 2, 3), 1j, math.nan, -math.inf, math.inf,
    -1, 0, 1, -1.5, 0.5, 2.5, 1e39, 10**400, np.int64(3), np.float32(0.5), np.array([1.0, 2.0]), np.array([["a"]]),
    np.zeros((0,)), np.array(None), jnp.zeros((2, 3)), object(), Unprintable(), hamu_jax.Regime, ..., {1, 2}, range(3),
    rules.gru(),
)  # fmt: skip


def is_real(value: Any) -> bool:
    """A finite real number that float32 can hold; a 0-d array is one."""
    if isinstance(value, jax.Array) and value.shape == ():
        value = value.item()
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return is_number and -3.4e38 < value < 3.4e38


def is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def optional(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.takes(value), kind.extra)


def count(at_least: int = 1) -> Kind:
    return Kind(lambda value: is_whole(value) and at_least <= value < 2**63)


def choice(*names: str) -> Kind:
    return Kind(lambda value: isinstance(value, str) and value in names, (names[0].upper(), [names[0]], names[:1]))


NUMBER = Kind(lambda value: is_real(value) and value >= 0, (-0.0, np.float64(-1), jnp.float32(2.0)))
BAND = Kind(lambda value: NUMBER.takes(value) or (isinstance(value, float) and value == math.inf), NUMBER.extra)
SCHEDULED = Kind(lambda value: callable(value) or (is_real(value) and value >= 0))
POSITIVE = Kind(lambda value: is_real(value) and value > 0, (optax.constant_schedule(1.0),))
FUNCTION = Kind(callable)
BLOCKS = Kind(lambda value: callable(value) or (isinstance(value, str) and value in ("leaf", "global")))
AXIS = Kind(lambda value: value is None or (is_whole(value) and value == 0))
NAMES = Kind(
    lambda value: value is None or (isinstance(value, str) and value != "") or (isinstance(value, tuple) and value == ("a",)),
    (("a",), ("a", 1), ["a"]),
)


def only(kind: type) -> Kind:
    return Kind(lambda value: value is None or isinstance(value, kind))


def no(*values: Any) -> Kind:
    """An argument for which only these values, none of which it takes, are tried."""
    return Kind(lambda _: False, values)


TREE = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
FEW = examples(1, 4)
BROKEN_DATA = no(
    None, {}, (), 3, "text", b"bytes", {"x": "text"}, {**FEW, "y": FEW["y"][:2]}, {k: v[:0] for k, v in FEW.items()},
    {**FEW, "name": np.array(["a"] * 4)}, {**FEW, "name": np.array([None] * 4)}, {**FEW, "n": 3}, {"x": FEW["x"]},
    Unprintable(), [{k: v[0] for k, v in FEW.items()}] * 3,
)  # fmt: skip
BROKEN_PARAMS = no({}, {"w": 1.0}, {**start(), "w": "text"}, None)
BROKEN_TREES = no(
    {}, {"a": 1.0}, {**TREE, "b": "text"}, {**TREE, "b": np.arange(3)}, {"a": TREE["a"]}, None, TREE["a"].T[:, None]
)
TRANSFORM = {
    "radius": optional(SCHEDULED),
    "blocks": BLOCKS,
    "distribution": Kind(lambda v: callable(v) or v in ("uniform", "relative") if isinstance(v, str) else callable(v)),
    "clip_norm": optional(POSITIVE),
}
ON_DEVICES = {"axis_name": NAMES, "shard_axis_name": NAMES}


class Case(NamedTuple):
    """A function, arguments that it takes, and what each of some arguments takes.

    Attributes:
      call: the function, of keyword arguments.
      given: arguments that it takes.
      kinds: what is attacked.
      costly: whether a call that succeeds compiles: then only values that must fail are tried.
    """

    call: Callable[..., Any]
    given: dict[str, Any]
    kinds: dict[str, Kind]
    costly: bool = False


def lossy(_: Any, batch: Any) -> Any:
    return batch["y"]


LOSSES = {"loss": FUNCTION, "forget_loss": optional(FUNCTION)}
CASES: dict[str, Case] = {
    "transform": Case(
        hamu_jax.transform,
        {"improvement": 0.5},
        {
            "improvement": SCHEDULED,
            "variant": choice("q", "u"),
            "infeasible": choice("scale", "ascend", "skip"),
            **TRANSFORM,
            "retain_axis": no(1, -1, True, "0", 0.5),
            "forget_axis": no(1, -1, True, "0", 0.5, np.array([0])),
            **ON_DEVICES,
        },
    ),
    "transform of requests": Case(
        hamu_jax.transform,
        {"improvement": 0.5, "forget_axis": 0, "num_requests": 3},
        {"num_requests": count(), "retain_axis": AXIS, "forget_axis": no(1, "0")},
    ),
    "hamu": Case(
        hamu_jax.hamu,
        {"learning_rate": 0.1, "improvement": 0.5},
        {"learning_rate": SCHEDULED, "improvement": SCHEDULED, **TRANSFORM},
    ),
    "combine": Case(
        hamu_jax.combine, {"rule": rules.gdiff()}, {"rule": Kind(lambda v: isinstance(v, rules.Rule)), **TRANSFORM}
    ),
    "hardness": Case(
        hamu_jax.hardness,
        {"retain_grads": TREE, "forget_grads": TREE},
        {"retain_grads": BROKEN_TREES, "forget_grads": BROKEN_TREES, **TRANSFORM},
        costly=True,
    ),
    "trade_off": Case(
        hamu_jax.trade_off,
        {"retain_grads": TREE, "forget_grads": TREE},
        {
            "retain_grads": BROKEN_TREES,
            "forget_grads": BROKEN_TREES,
            **TRANSFORM,
            "radius": optional(NUMBER),
            "points": count(2),
        },
        costly=True,
    ),
    "paired_value_and_grad": Case(
        hamu_jax.paired_value_and_grad,
        {"loss": loss},
        {**LOSSES, "microbatch_size": optional(count()), "forget_groups": only(hamu_jax.Groups), "axis_name": NAMES},
    ),
    "paired gradients": Case(
        lambda **batches: hamu_jax.paired_value_and_grad(loss)(start(), **batches),
        {"retain_batch": FEW, "forget_batch": FEW},
        {
            "retain_batch": BROKEN_DATA,
            "forget_batch": BROKEN_DATA,
            "retain_weights": no(
                np.ones((4, 1)), np.ones(3), 1.0, -np.ones(4), "text", np.array(["a"] * 4), {}, 1j * np.ones(4)
            ),
        },
        costly=True,
    ),
    "evaluate": Case(
        hamu_jax.evaluate,
        {"loss": loss, "params": start(), "splits": {"a": FEW}},
        {
            "loss": FUNCTION,
            "splits": no(None, 3, "text", [FEW], FEW["x"], {1: FEW}, *({"a": data} for data in BROKEN_DATA.extra)),
            "metrics": no(3, "text", [loss], {"loss": loss}, {"m": 3}, {1: loss}),
            "batch_size": count(),
        },
        costly=True,
    ),
    "assess": Case(
        hamu_jax.assess,
        {"loss": loss, "params": start(), "retain": FEW, "forget": FEW},
        {
            **LOSSES,
            "params": BROKEN_PARAMS,
            "retain": BROKEN_DATA,
            "forget": BROKEN_DATA,
            "improvement": NUMBER,
            "microbatch_size": optional(count()),
            "variant": choice("q", "u"),
            "mesh": no(3, "text", {}),
            **TRANSFORM,
            "radius": optional(NUMBER),
        },
        costly=True,
    ),
    "unlearn": Case(
        run,
        {"optimizer": SGD, "retain": RETAIN, "forget": FORGET, "steps": 1},
        {
            **LOSSES,
            "optimizer": no(None, 3, "adam", loss, {}, hamu_jax.hamu, optax.sgd(0.1), optax.chain(optax.sgd(0.1), SGD)),
            "retain": BROKEN_DATA,
            "forget": BROKEN_DATA,
            "steps": count(),
            "seed": count(0),
            "measure_every": count(0),
            "batch_size": Kind(lambda v: is_whole(v) and v > 0, ((8,), (8, 0), [8, 8.0], "88")),
            "microbatch_size": optional(count()),
            "evaluation": only(hamu_jax.Evaluation),
            "stopping": only(hamu_jax.Stopping),
            "checkpoints": only(hamu_jax.Checkpoints),
            "forget_groups": only(hamu_jax.Groups),
            "mesh": no(3, "text", {}, ()),
            "params": BROKEN_PARAMS,
        },
        costly=True,
    ),
    "forget": Case(
        functools.partial(hamu_jax.forget, progress=False),
        {"loss": loss, "params": start(), "retain": RETAIN, "forget": FEW, "held_out": FEW, "level": 50.0, "steps": 1},
        {
            "loss": FUNCTION,
            "params": BROKEN_PARAMS,
            **dict.fromkeys(("retain", "forget"), BROKEN_DATA),
            **dict.fromkeys(("unseen", "held_out"), no(*BROKEN_DATA.extra[1:])),
            "level": no("text", math.nan, math.inf, {}, [], [[1.0]], True, 1j, object(), Unprintable()),
            "tolerance": POSITIVE,
            "max_cost": optional(NUMBER),
            "requests": only(hamu_jax.Groups),
            "rule": only(rules.Rule),
            "blocks": BLOCKS,
            "steps": count(),
            "seed": count(0),
            "batch_size": Kind(lambda v: is_whole(v) and v > 0, ((8,), (8, 0), "88")),
            "microbatch_size": optional(count()),
            "checkpoints": only(hamu_jax.Checkpoints),
            "mesh": no(3, "text", {}, ()),
        },
        costly=True,
    ),
    "directional": Case(
        hamu_jax.directional,
        {"loss": loss, "params": start(), "batch": FEW, "direction": start()},
        {
            "loss": FUNCTION,
            "batch": BROKEN_DATA,
            "direction": no({}, None, {"w": 1.0}, {**start(), "b": "text"}),
            "microbatch_size": optional(count()),
        },
        costly=True,
    ),
    "weighted_grad": Case(
        hamu_jax.weighted_grad,
        {"loss": loss, "params": start(), "batch": FEW, "weights": np.ones(4)},
        {
            "loss": FUNCTION,
            "batch": BROKEN_DATA,
            "weights": no(None, "text", np.ones((4, 1)), 1.0, {}, np.array(["a"] * 4), 1j * np.ones(4)),
        },
        costly=True,
    ),
    "metrics.values": Case(
        metrics.values,
        {"metric": loss, "params": start(), "data": FEW},
        {"metric": FUNCTION, "data": BROKEN_DATA, "batch_size": count()},
        costly=True,
    ),
    "per_example_grads": Case(
        hamu_jax.per_example_grads,
        {"loss": loss, "params": start(), "batch": FEW},
        {"loss": FUNCTION, "batch": BROKEN_DATA, "microbatch_size": optional(count())},
        costly=True,
    ),
    "gram": Case(
        hamu_jax.gram,
        {"loss": loss, "params": start(), "batch": FEW},
        {
            "loss": FUNCTION,
            "params": BROKEN_PARAMS,
            "batch": BROKEN_DATA,
            "microbatch_size": optional(count()),
            "blocks": BLOCKS,
        },
        costly=True,
    ),
    "Evaluation": Case(
        hamu_jax.Evaluation,
        {"splits": {"a": FEW}},
        {
            "splits": Kind(lambda v: isinstance(v, dict) and all(isinstance(k, str) for k in v)),
            "every": count(),
            "batch_size": count(),
        },
    ),
    "Checkpoints": Case(
        hamu_jax.Checkpoints,
        {"directory": "somewhere"},
        {"directory": Kind(lambda v: isinstance(v, str) and v != ""), "every": count(), "keep": count()},
    ),
    "Target": Case(
        lambda **options: hamu_jax.Target(**({"at_most": 1.0} if "at_least" not in options else {}), **options),
        {"column": "forget_loss"},
        {"column": Kind(lambda v: isinstance(v, str)), "at_least": Kind(is_real)},
    ),
    "Patience": Case(
        hamu_jax.Patience,
        {"column": "a/loss", "evaluations": 3},
        {"column": Kind(lambda v: isinstance(v, str)), "evaluations": count(), "mode": choice("min", "max")},
    ),
    "Stopping": Case(
        hamu_jax.Stopping,
        {},
        {
            **dict.fromkeys(("unavoidable", "criterion", "infeasible"), optional(count())),
            "patience": only(hamu_jax.Patience),
            "targets": Kind(lambda v: v in ((), []) if isinstance(v, (tuple, list)) else False),
        },
    ),
    "Groups": Case(hamu_jax.Groups, {"of": lossy, "count": 3}, {"of": FUNCTION, "count": count()}),
    "TrustRegion": Case(hamu_jax.TrustRegion, {}, {"start": POSITIVE}),
    "Level": Case(
        hamu_jax.Level, {"value": 1.0}, {"learning_rate": Kind(lambda v: callable(v) or (is_real(v) and v > 0)), "band": BAND}
    ),
    "make_mesh": Case(
        sharding.make_mesh,
        {"devices": jax.devices()[:1]},
        {"data": Kind(lambda v: v is None or (is_whole(v) and v == 1)), "devices": no([], (), 3, ["cpu"])},
    ),
    "gru": Case(rules.gru, {}, {"max_norm": optional(POSITIVE)}),
    "cagrad": Case(rules.cagrad, {}, {"c": NUMBER}),
    "hamu_q": Case(rules.hamu_q, {}, {"infeasible": choice("scale", "ascend", "skip")}),
    "npo": Case(lambda **options: objectives.npo(loss, lossy, **options), {}, {"beta": POSITIVE}),
    "simnpo": Case(lambda **options: objectives.simnpo(loss, **options), {}, {"beta": POSITIVE, "gamma": NUMBER}),
    "scrub": Case(lambda **options: objectives.scrub(loss, loss, **options), {}, {"alpha": NUMBER, "gamma": NUMBER}),
    "causal_cross_entropy": Case(
        lambda **options: objectives.causal_cross_entropy(lossy, **options), {}, {"per": choice("token", "sequence")}
    ),
    "random_labels": Case(
        objectives.random_labels,
        {"labels": np.array([0, 1]), "classes": 3, "seed": 0},
        {
            "classes": Kind(lambda v: is_whole(v) and 2 <= v < 2**63),
            "seed": count(0),
            "labels": no(None, "text", [0.5], [0, 7], ["a"], {}, object()),
        },
    ),
    "auc": Case(
        metrics.auc,
        {"negatives": [0.1], "positives": [0.2]},
        dict.fromkeys(("negatives", "positives"), no(None, 3, "text", {}, [], [[1.0]], [math.nan], ["a"], object())),
    ),
    "model_utility": Case(
        metrics.model_utility,
        {"components": [0.5]},
        {"components": no(None, 3, "text", {}, [], [7.0], [math.nan], ["a"], object())},
    ),
}


def complaint(case: Case, argument: str, value: Any) -> str | None:
    """What is wrong with what a call does; None if it is as the oracle says."""
    takes = case.kinds[argument].takes(value)
    if takes and case.costly:
        return None
    try:
        case.call(**{**case.given, argument: value})
    except (ValueError, TypeError) as error:
        text = str(error)
        is_clear = argument.removesuffix("_grads") in text and "got" in text and "expected" in text
        return f"refused: {text[:150]}" if takes else None if is_clear else f"unclear: {type(error).__name__}: {text[:150]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return None if takes else "accepted"


@pytest.mark.parametrize("name", CASES)
def test_hostile_values(name: str) -> None:
    case, unclear, calls = CASES[name], [], 0
    for argument, kind in case.kinds.items():
        only_extra = kind.extra and not any(kind.takes(value) for value in (1, 0.5, "text", "q", loss, None, *kind.extra))
        for value in kind.extra if only_extra else (*HOSTILE, *kind.extra):
            calls += 1
            if said := complaint(case, argument, value):
                shown = "an unprintable object" if isinstance(value, Unprintable) else repr(value)[:60]
                unclear.append(f"{argument}={shown}: {said}")
    print(f"{name}: {calls} calls, {len(unclear)} unclear")
    assert not unclear, "\n".join(unclear)
