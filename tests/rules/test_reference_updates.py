"""Single updates of the PyTorch reference."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from two_gradient_problems import Problems, norm, solve

from hamu_jax import Regime

DATA = Path(__file__).parents[1] / "data" / "updates.npz"
REGIMES = {
    "direct": Regime.DIRECT,
    "rectified": Regime.RECTIFIED,
    "colinear": Regime.COLLINEAR,
    "infeasible": Regime.INFEASIBLE,
    "zero_forget_grad": Regime.DIRECT,
}
GROUPS = [(variant, use_lr_radius) for variant in "qu" for use_lr_radius in (True, False)]


@functools.cache
def load() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The records, and the arrays with one row a record."""
    with np.load(DATA, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "index_json"}
        return json.loads(str(file["index_json"])), arrays


def group(variant: str, use_lr_radius: bool) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], Problems]:
    """The records of one variant and one kind of radius, as problems in gradient space."""
    records, arrays = load()
    rows = [i for i, r in enumerate(records) if r["variant"] == f"hamu-{variant}" and r["use_lr_radius"] == use_lr_radius]
    arrays = {name: values[rows] for name, values in arrays.items()}
    radius = None if use_lr_radius else arrays["radius"] / arrays["lr"]
    problems = Problems(arrays["retain_grad"], arrays["forget_grad"], arrays["constraint"] / arrays["lr"], radius)
    return [records[i] for i in rows], arrays, problems


def relative(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest error of each row, relative to the row's largest number."""
    scale = np.max(np.abs(expected), axis=-1)
    return np.max(np.abs(got - expected), axis=-1) / np.where(scale > 0, scale, 1.0)


def test_there_are_204_records() -> None:
    assert sum(len(group(*key)[0]) for key in GROUPS) == 204


@pytest.mark.parametrize(("variant", "use_lr_radius"), GROUPS)
def test_updates(variant: str, use_lr_radius: bool) -> None:
    _, arrays, problems = group(variant, use_lr_radius)
    directions, hardness = solve(problems, variant, "ascend")
    update = arrays["lr"][:, None] * directions
    stopped = np.isnan(arrays["update"]).any(axis=-1)
    assert np.all(relative(update, arrays["update"])[~stopped] <= 1e-12)
    assert np.all(hardness.regime[stopped, 0] == Regime.INFEASIBLE)


@pytest.mark.parametrize(("variant", "use_lr_radius"), GROUPS)
def test_regimes(variant: str, use_lr_radius: bool) -> None:
    records, _, problems = group(variant, use_lr_radius)
    _, hardness = solve(problems, variant, "ascend")
    clear = [i for i, r in enumerate(records) if r["branch_margin"] >= 1e-12 and not r["alignment"].startswith("zero")]
    expected = [REGIMES[records[i]["branch"]] for i in clear]
    assert len(clear) >= 40
    np.testing.assert_array_equal(hardness.regime[clear, 0], expected)
    np.testing.assert_array_equal(hardness.feasible[:, 0], [r["truly_feasible"] for r in records])


@pytest.mark.parametrize(("variant", "use_lr_radius"), GROUPS)
def test_logged_quantities(variant: str, use_lr_radius: bool) -> None:
    _, arrays, problems = group(variant, use_lr_radius)
    _, hardness = solve(problems, variant, "ascend")
    free, guaranteed = arrays["log_retain_grad_norm"], arrays["log_forget_grad_norm"]  # for HAMU-U after the exchange
    retain, forget = (free, guaranteed) if variant == "q" else (guaranteed, free)
    radius = arrays["log_radius"] / arrays["lr"]
    moving = free > 0  # a zero gradient has no thresholds and no angle
    for got, expected, scale in (
        (hardness.retain_norm, retain, retain),
        (hardness.forget_norm, forget, forget),
        (hardness.kappa, arrays["log_gradient_dot_product"], free * guaranteed),
        (hardness.radius, radius, radius),
        (hardness.improvement, arrays["log_stopping_threshold"], arrays["log_stopping_threshold"]),
        (hardness.kappa_1, np.where(moving, arrays["log_branch_threshold"], 0.0), np.abs(arrays["log_branch_threshold"])),
    ):
        assert np.all(np.abs(got[:, 0] - expected) <= 1e-15 * scale)


@pytest.mark.parametrize(("variant", "use_lr_radius"), GROUPS)
def test_logged_angle_and_stopping_criterion(variant: str, use_lr_radius: bool) -> None:
    _, arrays, problems = group(variant, use_lr_radius)
    _, hardness = solve(problems, variant, "ascend")
    free, guaranteed = arrays["log_retain_grad_norm"], arrays["log_forget_grad_norm"]
    moving = (free > 0) & (guaranteed > 0)
    # The reference takes an arccosine and sqrt(rr ff - kappa^2): near 0 and 180 degrees both are sqrt(eps) off.
    parallel = np.abs(arrays["log_angle"] - 90) > 89
    angle_error = np.abs(hardness.angle[:, 0] - arrays["log_angle"])[moving]
    assert np.all(angle_error <= np.where(parallel, 2e-6, 1e-12)[moving])
    # The single updates were logged as if the radius were always the learning-rate radius.
    logged = arrays["log_stopping_criterion"][moving] * hardness.radius[moving, 0] / free[moving]
    error = np.abs(hardness.stopping_quantity[moving] - logged) / (hardness.radius[moving, 0] * guaranteed[moving])
    assert np.all(error <= np.where(parallel, 3e-8, 1e-14)[moving])


@pytest.mark.parametrize(("variant", "use_lr_radius"), GROUPS)
def test_float32_agrees_with_float64(variant: str, use_lr_radius: bool) -> None:
    records, _, problems = group(variant, use_lr_radius)
    narrow = Problems(*(None if x is None else x.astype(np.float32) for x in problems))
    (single, _), (double, _) = solve(narrow, variant, "ascend"), solve(problems, variant, "ascend")
    error = norm(single - double) / np.maximum(norm(double), 1e-30)
    # At 1 - 1e-6 of what the ball allows the length that is left, sqrt(r^2 - q^2/ff), amplifies rounding 700 times.
    limit = np.array([r["constraint_kind"] == "very_near_limit" for r in records])
    assert np.all(error <= np.where(limit, 2e-4, 1e-5))
