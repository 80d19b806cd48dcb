"""Whole runs of the PyTorch reference: an MLP, both variants, every distribution, six blocks."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_mlp import TENSORS, flatten, mlp, unflatten
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import Regime

DATA = Path(__file__).parents[1] / "data" / "trajectories.npz"
LEARNING_RATE = 0.05
DISTRIBUTIONS = {
    "gradnorm": "grad_norm",
    "gradnorm_nonorm": "relative",
    "uniform": "uniform",
    "softmax": "softmax",
    "softmax_nonorm": lambda _rr, _ff, kappa: jnp.exp(-kappa),
}
INNER = {
    "SGD": optax.sgd(LEARNING_RATE),
    "AdamW(lr=0.05,wd=0)": optax.adamw(LEARNING_RATE, weight_decay=0.0),
}
REGIMES = {"direct": Regime.DIRECT, "rectified": Regime.RECTIFIED, "infeasible": Regime.INFEASIBLE}


@functools.cache
def load() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The records, and the arrays."""
    with np.load(DATA, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "index_json"}
        return json.loads(str(file["index_json"])), arrays


def differentiate(weights: jax.Array, retain: Any, forget: Any) -> Any:
    """Losses and gradients at one point."""
    losses, grads = hamu_jax.paired_value_and_grad(hamu_jax.objectives.cross_entropy(mlp))(unflatten(weights), retain, forget)
    return losses, jax.tree.map(optax.tree.norm, grads, is_leaf=lambda node: isinstance(node, dict)), grads


def optimizer(improvement: Any, method: str, distribution: str, inner: str) -> optax.GradientTransformationExtraArgs:
    """What a record of the fixture describes."""
    transform = hamu_jax.transform(
        improvement, variant=method[-1], distribution=DISTRIBUTIONS[distribution], clip_norm=1.0, infeasible="ascend"
    )
    return optax.chain(transform, INNER[inner])


compiled = functools.partial(jax.jit, compiler_options=PLAIN_COMPILE)


@functools.cache
def steps_of(*options: str) -> tuple[Any, Any]:
    """`init` and `step` of many runs at once that differ in their improvement and in where they are."""

    def init(improvement: Any, weights: jax.Array) -> Any:
        return optimizer(improvement, *options).init(unflatten(weights))

    def step(improvement: Any, weights: jax.Array, state: Any, grads: Any) -> Any:
        params = unflatten(weights)
        updates, state = optimizer(improvement, *options).update(grads.retain, state, params, forget_grads=grads.forget)
        return flatten(optax.apply_updates(params, updates)), state

    return compiled(jax.vmap(init)), compiled(jax.vmap(step))


@functools.cache
def simulate(dtype: str) -> dict[int, Any]:
    """Our runs of all the records of a dtype: for each row, the weights before and after every step and what was measured."""
    records, arrays = load()
    rows = [i for i, record in enumerate(records) if record["dtype"] == dtype]
    number = np.float64 if dtype == "f64" else np.float32

    def batch(role: str, step: int) -> dict[str, np.ndarray]:
        x, y = (np.stack([arrays[f"data/{records[i]['data']}/{role}_{name}"][step] for i in rows]) for name in "xy")
        return {"x": x.astype(number), "label": y.astype(np.int32)}

    # optax.adamw's bias correction raises a float to an int32.
    with jax.enable_x64(dtype == "f64"), jax.numpy_dtype_promotion("standard"):
        gradients = compiled(jax.vmap(differentiate))
        weights = arrays["weights"][rows, 0].astype(number)
        improvement = np.array([records[i]["constraint"] / records[i]["lr"] for i in rows], number)
        kinds = [(records[i]["method"], records[i]["distribution"], records[i]["inner_optimizer"]) for i in rows]
        groups = {kind: np.array([j for j, other in enumerate(kinds) if other == kind]) for kind in kinds}
        states = {kind: steps_of(*kind)[0](improvement[group], weights[group]) for kind, group in groups.items()}
        history: dict[int, list[Any]] = {row: [weights[j]] for j, row in enumerate(rows)}
        measured: dict[int, list[Any]] = {row: [] for row in rows}
        for t in range(10):
            losses, norms, grads = jax.device_get(gradients(weights, batch("retain", t), batch("forget", t)))
            weights = weights.copy()
            for kind, group in groups.items():
                own = jax.tree.map(lambda x, group=group: x[group], grads)
                weights[group], states[kind] = steps_of(*kind)[1](improvement[group], weights[group], states[kind], own)
                hardness = jax.device_get(hamu_jax.get_hardness(states[kind]))
                for k, j in enumerate(group):
                    history[rows[j]].append(weights[j])
                    what = (losses, norms), hardness
                    measured[rows[j]].append(
                        (jax.tree.map(lambda x, j=j: x[j], what[0]), jax.tree.map(lambda x, k=k: x[k], what[1]))
                    )
    return {row: (np.stack(history[row]), *jax.tree.map(lambda *x: np.stack(x), *measured[row])) for row in rows}


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a step, relative to the largest number of that step."""
    scale = np.max(np.abs(expected), axis=-1)
    return float(np.max(np.max(np.abs(got - expected), axis=-1) / np.where(scale > 0, scale, 1.0)))


def steps_taken(record: dict[str, Any]) -> int:
    """Steps that the reference made before it stopped, if it did."""
    return 10 if record["stop"] is None else record["stop"][1]


def name_of(row: int) -> str:
    """A record in a test's name."""
    record = load()[0][row]
    return "-".join(record[name] for name in ("key", "method", "distribution", "data", "start"))


DOUBLE = [i for i, record in enumerate(load()[0]) if record["dtype"] == "f64"]
SINGLE = [i for i, record in enumerate(load()[0]) if record["dtype"] == "f32"]
# Our blocks are in the order of sorted keys, the reference's in that of the layers.
ORDER = [sorted(TENSORS).index(name) for name in TENSORS]


def test_all_distributions_are_there_in_both_variants() -> None:
    records = load()[0]
    assert {(r["method"], r["distribution"]) for r in records} == set(itertools.product(("hamu-q", "hamu-u"), DISTRIBUTIONS))
    assert len(records) == 36


@pytest.mark.parametrize("row", DOUBLE, ids=name_of)
def test_weights_after_every_step(row: int) -> None:
    ours, expected = simulate("f64")[row][0], load()[1]["weights"][row]
    moved = slice(0, steps_taken(load()[0][row]) + 1)
    assert relative(ours[moved], expected[moved]) <= 1e-12


@pytest.mark.parametrize("row", DOUBLE, ids=name_of)
def test_logged_quantities(row: int) -> None:
    _, (losses, norms), hardness = simulate("f64")[row]
    for name, got in {
        "retain_loss": losses.retain,
        "forget_loss": losses.forget,
        "retain_norm_preclip": norms.retain,
        "forget_norm_preclip": norms.forget,
        "stopping_constraint": hardness.total_improvement * LEARNING_RATE,
        "stopping_rhs": hardness.stopping_quantity * LEARNING_RATE,
        "block_constraint": hardness.improvement[:, ORDER] * LEARNING_RATE,
        "block_radius": hardness.radius[:, ORDER] * LEARNING_RATE,
    }.items():
        expected = load()[1][name][row].reshape(10, -1)
        logged = np.isfinite(expected).all(axis=1)  # nothing after a stop
        if name.startswith("block") and load()[0][row]["stop"] == ["stopping_criterion", 0]:
            assert not logged.any()
        else:
            assert relative(got.reshape(10, -1)[logged], expected[logged]) <= 1e-12, name


@pytest.mark.parametrize("row", DOUBLE, ids=name_of)
def test_regimes_and_stops(row: int) -> None:
    hardness, record = simulate("f64")[row][-1], load()[0][row]
    for regimes, branches in zip(hardness.regime[: steps_taken(record), ORDER], record["branches"], strict=False):
        np.testing.assert_array_equal(regimes, [REGIMES[branch] for branch in branches])
    if record["stop"] is not None and record["stop"][0] == "failed_feasibility":
        assert np.all(hardness.feasible[: record["stop"][1]])
        assert not np.all(hardness.feasible[record["stop"][1]])
    if record["stop"] is not None and record["stop"][0] == "stopping_criterion":
        assert hardness.stopping_criterion[record["stop"][1]]


@pytest.mark.parametrize("row", SINGLE, ids=name_of)
def test_float32_runs(row: int) -> None:
    records, arrays = load()
    same = ("method", "data", "start", "constraint", "distribution", "inner_optimizer", "stop")
    twin = next(i for i in DOUBLE if all(records[i][name] == records[row][name] for name in same))
    ours = simulate("f32")[row][0]
    assert ours.dtype == np.float32
    assert relative(ours, arrays["weights"][row]) <= 1e-6
    assert relative(ours, simulate("f64")[twin][0]) <= 1e-6
