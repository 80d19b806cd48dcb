"""A promise to every request: against sums in float64, a convex solver and the closed form."""

import functools
from typing import Any

import chex
import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from two_gradient_problems import PLAIN_COMPILE, flat, norm, tree_of

import hamu_jax
from hamu_jax import Regime, Stacked, rules
from hamu_jax._transform import step_requests
from hamu_jax._transform.step import Settings

COUNT = 24  # problems that are solved at once
TIGHT = 1e-9  # of what float64 reaches: the solver's own residual is at most 1e-8, and usually 1e-14


def by_block(tree: Any, lead: int) -> list[np.ndarray]:
    """One such array a leaf."""
    return [flat([x], lead) for x in jax.tree.leaves(tree)]


def sample(seed: int, m: int, *, hard: tuple[float, float] = (0.0, 0.8), dtype: Any = np.float64, shapes: Any = None) -> Any:
    """Gradients, requirements `[COUNT, m]` and radii: requests that look like the retain set, to different degrees."""
    rng = np.random.default_rng(seed)
    retain = tree_of(rng, (COUNT,), dtype, shapes)
    forget = jax.tree.map(lambda g, noise: 0.5 * jnp.expand_dims(g, 1) + noise, retain, tree_of(rng, (COUNT, m), dtype, shapes))
    radius = np.exp(rng.normal(size=COUNT))
    cosine = rng.uniform(*hard, (COUNT, 1)) * rng.uniform(0.2, 1, (COUNT, m))
    improvement = cosine * radius[:, None] * norm(flat(forget, 2))
    return retain, forget, jnp.asarray(improvement, dtype), jnp.asarray(radius, dtype)


@functools.cache
def solver(**options: Any) -> Any:
    """The update and what is told of it, for many problems at once."""

    def one(retain: Any, forget: Any, improvement: Any, radius: Any) -> Any:
        tx = hamu_jax.transform(improvement, radius=radius, **options)
        params = jax.tree.map(lambda x: x[0], retain) if options.get("retain_axis") == 0 else retain
        update, state = tx.update(retain, tx.init(params), forget_grads=forget)
        return update, state.hardness, state.requests

    return jax.jit(jax.vmap(one), compiler_options=PLAIN_COMPILE)


def solve(problems: Any, **options: Any) -> Any:
    return jax.device_get(solver(**{"blocks": "global", "forget_axis": 0, **options})(*problems))


def socp(objective: np.ndarray, rows: np.ndarray, required: np.ndarray, radius: float, *, share: bool) -> np.ndarray:
    """Minimise `<objective, d>` with `<rows_i, d> >= required_i` in the ball; with `share`, the largest `t` of `required`."""
    n = len(objective)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cost = np.append(np.zeros(n), -1.0) if share else np.append(objective, 0.0)  # the last variable is t
    pinned = np.zeros((1, n + 1)) if share else np.eye(n + 1)[-1:]
    constraints = np.vstack([pinned, np.column_stack([-rows, required]), np.zeros(n + 1), -np.eye(n, n + 1)])
    limits = np.concatenate([[0.0 if share else 1.0], np.zeros(len(rows)), [radius], np.zeros(n)])
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(len(rows)), clarabel.SecondOrderConeT(n + 1)]
    empty = sparse.csc_matrix((n + 1, n + 1))
    solution = clarabel.DefaultSolver(empty, cost, sparse.csc_matrix(constraints), limits, cones, settings).solve()
    assert solution.status == clarabel.SolverStatus.Solved
    return np.array(solution.x)


def check_with_solver(problems: Any, protected: np.ndarray, update: Any, requests: Any) -> list[bool]:
    """The fraction and the objective against the convex solver's; which problems can be met."""
    retain, forget, improvement, radius = flat(problems[0]), flat(problems[1], 2), *map(np.asarray, problems[2:])
    feasible = []
    for i, d in enumerate(-flat(update)):
        rows = np.vstack([forget[i], -protected[i]])
        required = np.append(improvement[i], np.zeros(len(protected[i])))
        largest = socp(retain[i], rows, required, radius[i], share=True)[-1]
        # The convex solver stops at 1e-8 of its own scaling.
        np.testing.assert_allclose(requests.fraction[i, 0], min(1.0, largest), rtol=1e-6)
        feasible.append(largest > 1)
        if feasible[-1]:
            best = socp(retain[i], rows, required, radius[i], share=False)[:-1]
            assert abs(retain[i] @ (d - best)) <= 3e-7 * radius[i] * norm(retain[i])
    return feasible


def check_promises(problems: Any, update: Any, requests: Any) -> None:
    """What is promised is what the update does, nobody gets less than the common fraction, and the ball is kept."""
    forget, improvement, radius = flat(problems[1], 2), np.asarray(problems[2]), np.asarray(problems[3])
    change = -np.einsum("pmn,pn->pm", forget, flat(update))
    unit = radius[:, None] * norm(forget)
    np.testing.assert_allclose(requests.change / unit, change / unit, atol=TIGHT)
    assert np.all(change - requests.fraction * improvement >= -TIGHT * unit)
    binds = requests.multipliers[:, 0] * unit / np.maximum(radius * norm(flat(problems[0])), 1e-300)[:, None] > 1e-6
    binds &= requests.fraction < 1
    # Below a fraction of 1 a request that binds gets just that.
    assert np.all(np.abs(change - requests.fraction * improvement)[binds] <= TIGHT * unit[binds])
    assert np.all(norm(flat(update)) <= radius * (1 + TIGHT))
    assert np.all(requests.kkt <= 1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("m", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_promises_against_a_convex_solver(m: int) -> None:
    problems = sample(m, m, hard=(0.0, 2.0 / np.sqrt(m)))  # random requests can have 1/sqrt(m) of their norms in common
    update, hardness, requests = solve(problems)
    check_promises(problems, update, requests)
    feasible = check_with_solver(problems, np.zeros((COUNT, 0, 10)), update, requests)
    assert {True, False} == set(feasible)
    np.testing.assert_array_equal(hardness.feasible[:, 0], feasible)
    np.testing.assert_array_equal(requests.fraction[:, 0] == 1, feasible)


@pytest.mark.usefixtures("x64")
def test_no_protected_group_gets_worse() -> None:
    problems = sample(20, 2, hard=(0.0, 0.5))
    objective, forget, *rest = problems
    noise = tree_of(np.random.default_rng(21), (COUNT, 3), np.float64)
    retain = jax.tree.map(lambda g, x: jnp.expand_dims(g, 1) + 2 * (x - jnp.mean(x, axis=1, keepdims=True)), objective, noise)
    update, hardness, requests = solve((retain, forget, *rest), retain_axis=0)
    groups, d = flat(retain, 2), -flat(update)
    change = np.einsum("pkn,pn->pk", groups, d)
    unit = np.asarray(rest[1])[:, None] * norm(groups)
    assert np.all(change <= TIGHT * unit)
    assert np.any(change > -1e-6 * unit), "some protection binds"
    check_promises(problems, update, requests)
    assert {True, False} == set(check_with_solver(problems, groups, update, requests))
    assert requests.multipliers.shape == (COUNT, 1, 2)
    # The mean is the objective.
    np.testing.assert_allclose(hardness.retain_norm[:, 0], norm(flat(objective)), rtol=1e-12)
    np.testing.assert_allclose(hardness.total_retain_change, np.einsum("pn,pn->p", flat(objective), d), rtol=1e-6, atol=1e-9)


def expected_weights(distribution: str, retain: list[np.ndarray], forget: list[np.ndarray]) -> np.ndarray:
    """The shares of docs/mathematics.md, section 3, `[problems, blocks, m]`."""
    kappa = np.stack([np.einsum("pn,pmn->pm", g, f) for g, f in zip(retain, forget, strict=True)], axis=1)
    norms = np.stack([norm(g)[:, None] * norm(f) for g, f in zip(retain, forget, strict=True)], axis=1)
    return {
        "grad_norm": norms / norms.sum(axis=1, keepdims=True),
        "uniform": np.full_like(norms, 1 / len(retain)),
        "softmax": np.exp(-kappa) / np.exp(-kappa).sum(axis=1, keepdims=True),
        "relative": norms,
    }[distribution]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distribution", ["grad_norm", "uniform", "softmax", "relative"])
@pytest.mark.parametrize("radius", [None, 2.0])
def test_shares_of_every_request(distribution: Any, radius: float | None) -> None:
    retain, forget, improvement, _ = sample(32, 3)
    g, f = by_block(retain, 1), by_block(forget, 2)
    rows = [np.concatenate([x[:, None], -y], axis=1) for x, y in zip(g, f, strict=True)]
    gram = jnp.asarray(np.stack([np.einsum("pin,pjn->pij", x, x) for x in rows], axis=1))
    settings = Settings(rules.projected(), "leaf", distribution, None)
    longest = None if radius is None else jnp.asarray(radius)
    budget = jax.vmap(lambda products, q: step_requests._allocate(products, q, longest, settings))(gram, improvement)
    needed = np.asarray(improvement)[:, None] * expected_weights(distribution, g, f)
    np.testing.assert_allclose(budget.improvement, needed, rtol=1e-12)
    expected = np.stack([norm(x) for x in g], axis=1) if radius is None else np.full((COUNT, 2), radius)
    np.testing.assert_allclose(budget.radius, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("distribution", ["grad_norm", pytest.param("relative", marks=pytest.mark.slow)])
def test_every_block_keeps_its_share_and_its_ball(distribution: str) -> None:
    retain, forget, improvement, _ = sample(30, 3)
    if distribution == "relative":  # cosines
        improvement = jnp.asarray(np.random.default_rng(31).uniform(0, 0.8, (COUNT, 3)))
    update, hardness, requests = solve((retain, forget, improvement, None), blocks="leaf", distribution=distribution)
    g, f, d = by_block(retain, 1), by_block(forget, 2), [-x for x in by_block(update, 1)]
    needed = np.asarray(improvement)[:, None] * expected_weights(distribution, g, f)
    change = np.stack([np.einsum("pmn,pn->pm", x, y) for x, y in zip(f, d, strict=True)], axis=1)
    for i in range(2):
        unit = norm(g[i])[:, None] * norm(f[i])
        assert np.all(change[:, i] - requests.fraction[:, i, None] * needed[:, i] >= -TIGHT * unit)
        assert np.all(norm(d[i]) <= norm(g[i]) * (1 + TIGHT)), "None is the learning-rate radius"
    np.testing.assert_allclose(requests.change, change.sum(axis=1), rtol=1e-9, atol=1e-9)
    everywhere = np.all(requests.fraction == 1, axis=1)
    assert {True, False} == set(everywhere)
    in_total = np.asarray(improvement) * (needed.sum(axis=1) / np.asarray(improvement) if distribution == "relative" else 1.0)
    assert np.all((requests.change - in_total)[everywhere] >= -1e-8)
    # The hardness is that of the mean of the requests.
    kappa = np.stack([np.einsum("pn,pmn->pm", x, y).mean(axis=1) for x, y in zip(g, f, strict=True)], axis=1)
    np.testing.assert_allclose(hardness.kappa, kappa, rtol=1e-9)
    np.testing.assert_allclose(hardness.forget_norm, np.stack([norm(x.mean(axis=1)) for x in f], axis=1), rtol=1e-9)
    np.testing.assert_allclose(hardness.improvement, needed.mean(axis=2), rtol=1e-9)
    np.testing.assert_allclose(hardness.forget_change, change.mean(axis=2), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        hardness.retain_change, np.stack([np.sum(x * y, -1) for x, y in zip(g, d, strict=True)], 1), atol=1e-9
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), pytest.param(np.float64, 1e-9, marks=pytest.mark.slow)])
def test_one_request_is_the_closed_form(dtype: Any, tolerance: float) -> None:
    with jax.enable_x64(dtype == np.float64):
        problems = sample(40, 1, hard=(0.0, 2.0), dtype=dtype)
        update, hardness, requests = solve(problems, blocks="leaf")
        retain, forget, improvement, radius = problems
        alone = retain, jax.tree.map(lambda x: x[:, 0], forget), improvement[:, 0], radius
        expected, measured, _ = solve(alone, blocks="leaf", forget_axis=None)
    for got, wanted in zip(by_block(update, 1), by_block(expected, 1), strict=True):
        assert np.all(norm(got - wanted) <= tolerance * np.asarray(radius))
    assert {Regime.DIRECT, Regime.RECTIFIED, Regime.INFEASIBLE} == set(np.unique(hardness.regime))
    np.testing.assert_array_equal(hardness.regime, measured.regime)
    np.testing.assert_allclose(requests.change[:, 0], measured.total_forget_change, rtol=10 * tolerance, atol=10 * tolerance)
    for name in ("kappa", "kappa_1", "retain_norm", "forget_norm", "improvement", "radius", "total_improvement"):
        np.testing.assert_allclose(getattr(hardness, name), getattr(measured, name), rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("x64")
def test_multipliers_show_which_request_binds() -> None:
    """They are the slope of the best retain change in each requirement."""
    retain, forget, improvement, radius = problems = sample(3, 3, hard=(0.0, 0.3))
    update, _, requests = solve(problems)
    multipliers, fraction = requests.multipliers[:, 0], requests.fraction[:, 0]
    step, met = 1e-5, fraction == 1
    assert np.sum(met) > COUNT // 2
    slack = (requests.change - np.asarray(improvement))[met]
    assert np.all(multipliers >= 0)
    assert np.all((slack <= 1e-8) | (multipliers[met] <= 1e-8))
    assert {(True, False), (False, True)} <= {(bool(a), bool(b)) for a, b in (multipliers[met][:, :2] > 1e-3)}
    for i in range(3):
        best = []
        for sign in (1, -1):
            other, _, _ = solve((retain, forget, improvement.at[:, i].add(sign * step), radius))
            best.append(-np.sum(flat(retain) * flat(other), axis=1))
        slope = (best[0] - best[1]) / (2 * step)
        smooth = met & (multipliers[:, i] > 1e-3)  # not where the set of requests that bind may change
        np.testing.assert_allclose(slope[smooth], multipliers[smooth, i], rtol=1e-4)  # the quotient's own error
    assert np.all(np.isfinite(flat(update)))


@pytest.mark.usefixtures("x64")
def test_all_get_the_same_fraction_of_what_cannot_be_met() -> None:
    """Orthogonal requests in a ball of radius 1: `t |q| = 1`, so that `q = (1, 2, 2)` gets a third."""
    eye = np.zeros((COUNT, 3, 10))
    eye[:, [0, 1, 2], [1, 4, 8]] = 1.0
    forget = {"a": jnp.asarray(eye[..., :6].reshape(COUNT, 3, 2, 3)), "b": jnp.asarray(eye[..., 6:])}
    retain, _, _, _ = sample(50, 3)
    required = jnp.broadcast_to(jnp.array([1.0, 2.0, 2.0]), (COUNT, 3))
    update, hardness, requests = solve((retain, forget, required, jnp.ones(COUNT)))
    np.testing.assert_allclose(requests.fraction, 1 / 3, rtol=1e-9)
    np.testing.assert_allclose(requests.change, np.asarray(required) / 3, rtol=1e-8)
    np.testing.assert_allclose(-flat(update), np.einsum("pm,pmn->pn", np.asarray(required) / 3, eye), atol=1e-8)
    assert np.all(hardness.regime == Regime.INFEASIBLE)


@pytest.mark.usefixtures("x64")
def test_opposite_requests_get_no_step() -> None:
    retain, forget, required, radius = sample(51, 3, hard=(0.1, 0.3))
    forget = jax.tree.map(lambda x: x.at[:, 2].set(-x[:, 0]), forget)
    update, _, requests = solve((retain, forget, required, radius))
    np.testing.assert_array_equal(requests.fraction, 0.0)
    np.testing.assert_array_equal(flat(update), 0.0)
    np.testing.assert_array_equal(requests.change, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_clipping_is_of_every_row() -> None:
    """Requirements and radius are in the clipped gradients' units, changes in those of the losses themselves."""
    retain, forget, improvement, _ = sample(60, 3)
    clipped = [norm(flat(tree, lead)) for tree, lead in ((retain, 1), (forget, 2))]
    scales = [np.minimum(1.0, 3.0 / (size + 1e-6)) for size in clipped]
    assert all(np.any(scale < 1) for scale in scales)
    assert all(np.any(scale == 1) for scale in scales)

    def scaled(tree: Any, scale: np.ndarray) -> Any:
        return jax.tree.map(lambda x: x * scale.reshape(scale.shape + (1,) * (x.ndim - scale.ndim)), tree)

    update, _, requests = solve((retain, forget, improvement, None), blocks="leaf", clip_norm=3.0)
    before = scaled(retain, scales[0]), scaled(forget, scales[1]), improvement, None
    expected, _, same = solve(before, blocks="leaf", distribution="grad_norm")
    np.testing.assert_allclose(flat(update), flat(expected), atol=1e-9)
    np.testing.assert_allclose(requests.fraction, same.fraction, rtol=1e-9)
    np.testing.assert_allclose(requests.change, -np.einsum("pmn,pn->pm", flat(forget, 2), flat(update)), atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_stacked_blocks_are_separate_leaves() -> None:
    retain, forget, improvement, radius = sample(70, 3, hard=(0.0, 0.3), shapes={"x": (2, 2, 3), "y": (4,)})

    def split(tree: Any, axis: int) -> Any:
        parts = {f"x{i}": jnp.take(tree["x"], i, axis=axis) for i in range(2)}
        return {**parts, "y": tree["y"]}

    stacked, hardness, requests = solve((retain, forget, improvement, radius), blocks=stack_x)
    leaves, separate, same = solve((split(retain, 1), split(forget, 2), improvement, radius), blocks="leaf")
    np.testing.assert_allclose(flat(stacked), flat(leaves), atol=1e-9)
    chex.assert_trees_all_close((requests, hardness), (same, separate), rtol=1e-8, atol=1e-8)
    assert requests.fraction.shape == (COUNT, 3)


def stack_x(path: Any) -> Any:
    """Labels the leaf `x` as a stack."""
    name = path[0].key
    return Stacked(name) if name == "x" else name
