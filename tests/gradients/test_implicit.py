"""A stack of gradients that is not held: against sums over single examples, and against the stack that is."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import numbers_of
from two_gradient_problems import PLAIN_COMPILE, flat

import hamu_jax
from hamu_jax import Groups, ImplicitStack, Regime, objectives, rules
from hamu_jax._driver.blame import blame
from hamu_jax._driver.carry import first_carry
from hamu_jax._driver.step import driver_step
from hamu_jax._driver.stopping import Stopping
from hamu_jax._gradients.implicit_stack_operations import stack_changes, stack_products, stack_sum
from hamu_jax._kernel.blocks import partition

NUMBERS = np.array([2, 0, 0, -1, 2, 3, 0, 7, 2, 4])  # group 1 is empty, and -1 and 7 are no groups
COUNT = 5
SIZE = len(NUMBERS)


def loss(params: Any, batch: Any) -> Any:
    """A regression with one hidden layer."""
    return (jnp.tanh(batch["x"] @ params["hidden"]) @ params["out"] - batch["y"]) ** 2


def batch_of(seed: int, numbers: Any = NUMBERS, dtype: Any = np.float64) -> dict[str, Any]:
    rng, size = np.random.default_rng(seed), len(numbers)
    x, y = rng.normal(1, 1, (size, 3)).astype(dtype), rng.normal(4, 1, size).astype(dtype)  # requests that agree somewhat
    return {"x": x, "y": y, "group": np.asarray(numbers, np.int32), "label": rng.integers(0, 2, size)}


def params_of(dtype: Any = np.float64) -> dict[str, jax.Array]:
    rng = np.random.default_rng(9)
    return {"hidden": jnp.asarray(rng.normal(size=(3, 8)), dtype), "out": jnp.asarray(rng.normal(size=8), dtype)}


def stack_of(member: Any, shares: Any, microbatch_size: int | None = 4) -> ImplicitStack:
    return ImplicitStack(params_of(), batch_of(1), jnp.asarray(member), jnp.asarray(shares), loss, COUNT, microbatch_size)


@functools.cache
def gradients() -> np.ndarray:
    """Every example's gradient by a loop, `[SIZE, 32]`: 24 numbers of the one leaf, 8 of the other."""
    single = jax.jit(jax.grad(lambda p, example: loss(p, example)[0]))
    rows = [single(params_of(), jax.tree.map(lambda x, i=i: x[i : i + 1], batch_of(1))) for i in range(SIZE)]
    return np.stack([flat(row, 0) for row in rows])


@functools.cache
def passes(blocks: Any) -> Any:
    """All that can be asked of a stack, compiled once: members and shares are arguments."""

    def run(stack: ImplicitStack, others: Any, coefficients: Any, direction: Any) -> Any:
        split = partition(stack.params, blocks)
        return stack_products(stack, [others], split), stack_sum(stack, coefficients, split), stack_changes(stack, direction)

    return jax.jit(run, compiler_options=PLAIN_COMPILE)


def tree(vectors: np.ndarray) -> Any:
    lead = vectors.shape[:-1]
    return {"hidden": jnp.asarray(vectors[..., :24]).reshape(*lead, 3, 8), "out": jnp.asarray(vectors[..., 24:])}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("blocks", ["leaf", "global"])
def test_passes_are_those_over_single_examples(blocks: Any) -> None:
    """Any members and shares, of both signs, zero among them."""
    split = [slice(0, 24), slice(24, 32)] if blocks == "leaf" else [slice(0, 32)]

    @settings(max_examples=20)
    @given(st.lists(st.integers(0, COUNT), min_size=SIZE, max_size=SIZE), st.integers(0, 1000))
    def check(member: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        shares = rng.normal(size=SIZE) * (rng.random(SIZE) < 0.8)
        rows = np.zeros((COUNT, 32))
        for i, number in enumerate(member):
            if number < COUNT:
                rows[number] += shares[i] * gradients()[i]
        others, direction = rng.normal(size=(2, 32)), rng.normal(size=32)
        coefficients = rng.normal(size=(len(split), COUNT))
        stack = stack_of(np.asarray(member, np.int32), shares)
        products, total, changes = passes(blocks)(stack, tree(others), jnp.asarray(coefficients), tree(direction))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
        close(products.gram, np.stack([rows[:, part] @ rows[:, part].T for part in split]))
        close(products.cross[0], np.stack([others[:, part] @ rows[:, part].T for part in split]))
        close(flat(total, 0), np.concatenate(
            [weights @ rows[:, part] for weights, part in zip(coefficients, split, strict=True)]
        ))  # fmt: skip
        close(changes, rows @ direction)
        np.testing.assert_array_equal(products.gram, np.swapaxes(products.gram, 1, 2))
        np.testing.assert_array_equal(stack.present(), np.bincount(member, shares != 0, COUNT + 1)[:COUNT] > 0)

    check()


def average(problem: rules.Problem) -> rules.Combination:
    """A rule that is quick to compile, and depends on all that a rule may."""
    one, needed = jnp.ones(1, problem.gram.dtype), problem.improvement
    rows = jnp.concatenate([one, needed]) + 0.1 * problem.radius * problem.gram[0] / (1.0 + jnp.sum(problem.gram**2))
    zero = jnp.zeros_like(problem.radius)
    return rules.Combination(rows, zero, jnp.int32(Regime.UNCONSTRAINED), (zero, needed, zero))


QUICK = rules.Rule(average, many=True)


@functools.cache
def step_of(implicit: bool, rule: rules.Rule, microbatch_size: int | None, of: Any, count: int, **options: Any) -> Any:
    """One step, with losses and all that is told of it."""
    improvement = jnp.asarray(np.random.default_rng(5).uniform(0.02, 0.08, count))
    combine = hamu_jax.combine(rule, improvement=improvement, num_requests=count, **options)
    tx = optax.chain(combine, optax.sgd(0.1))
    groups = Groups(numbers_of, count, implicit=implicit)

    def step(params: Any, retain: Any, forget: Any, weights: Any, present: Any) -> Any:
        paired = hamu_jax.paired_value_and_grad(of, microbatch_size=microbatch_size, forget_groups=groups)
        losses, grads = paired(params, retain, forget, forget_weights=weights)
        assert isinstance(grads.forget, ImplicitStack) == implicit
        mine = grads.retain
        if options.get("retain_axis") == 0:
            mine = jax.tree.map(lambda g: jnp.stack([g, 2.0 * g + 0.1]), mine)
        extra = {} if implicit else {"forget_present": present}
        updates, state = tx.update(mine, tx.init(params), params, forget_grads=grads.forget, **extra)
        return losses, updates, hamu_jax.get_hardness(state), hamu_jax.get_requests(state)

    return jax.jit(step, compiler_options=PLAIN_COMPILE)


def both(
    rule: rules.Rule, microbatch_size: int | None, present: Any, numbers: Any = NUMBERS, count: int = COUNT, **options: Any
) -> Any:
    """The outcome with the stack that is not held, and with the one that is."""
    arguments = params_of(), batch_of(0), batch_of(1, numbers), jnp.ones(len(numbers)), jnp.asarray(present)
    return [step_of(implicit, rule, microbatch_size, loss, count, **options)(*arguments) for implicit in (True, False)]


PRESENT = np.array([True, False, True, True, True])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("microbatch_size", "options"),
    [
        (4, {"blocks": "global"}),
        (None, {"blocks": "leaf", "clip_norm": 1.0}),
        (1, {"blocks": "leaf", "retain_axis": 0, "radius": 20.0}),
    ],
)
def test_a_step_is_as_if_the_gradients_were_stacked(options: dict[str, Any], microbatch_size: int | None) -> None:
    implicit, stacked = both(QUICK, microbatch_size, PRESENT, **options)
    chex.assert_trees_all_close(implicit, stacked, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(implicit[-1].present, PRESENT)
    assert implicit[-1].change[1] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{"blocks": "global"}, {"blocks": "leaf", "retain_axis": 0, "radius": 20.0}])
def test_a_promise_is_as_if_the_gradients_were_stacked(options: dict[str, Any]) -> None:
    implicit, stacked = both(rules.projected(), 4, PRESENT, **options)
    # Steps are solutions to 1e-8 (the solver's residual), and usually to 1e-13.
    chex.assert_trees_all_close(implicit, stacked, rtol=1e-8, atol=1e-9)
    requests = implicit[-1]
    assert np.all(requests.fraction > 0)
    assert np.all(requests.change[PRESENT] > 0)
    assert not np.any(requests.multipliers[:, 1])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_every_example_a_request() -> None:
    implicit, stacked = both(rules.projected(), 3, np.ones(SIZE, bool), np.arange(SIZE), SIZE, blocks="global", radius=1.0)
    chex.assert_trees_all_close(implicit, stacked, rtol=1e-8, atol=1e-9)


entropy = objectives.cross_entropy(lambda params, batch: batch["x"] @ params["hidden"])


@pytest.mark.usefixtures("x64")
def test_examples_that_do_not_count_may_be_nan() -> None:
    """Padding, weights of 0, and examples in no group; 5 is alone in its group, which is then not there."""
    batch, weights = batch_of(1), jnp.ones(SIZE).at[4].set(0.0).at[0].set(2.0)
    batch["label"][5] = -1
    present = jnp.array([True, False, True, False, True])
    implicit, stacked = (step_of(implicit, QUICK, 4, entropy, COUNT, blocks="leaf") for implicit in (True, False))
    expected = stacked(params_of(), batch_of(0), batch, weights, present)
    broken = {**batch, "x": batch["x"].copy()}
    broken["x"][[3, 4, 5, 7]] = np.nan
    found = implicit(params_of(), batch_of(0), broken, weights, present)
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-12)
    broken["x"][0] = np.nan
    _, updates, hardness, _ = implicit(params_of(), batch_of(0), broken, weights, present)
    assert not np.all(hardness.finite)
    assert all(not np.any(x) for x in jax.tree.leaves(updates))


FORGET = {
    "x": np.random.default_rng(11).normal(size=(9, 3)).astype(np.float32),
    "y": np.random.default_rng(12).normal(size=9).astype(np.float32),
    "group": np.arange(9, dtype=np.int32) % 3,
}
RETAIN = {"x": FORGET["x"][::-1] + 0.5, "y": FORGET["y"][::-1]}
START = {"hidden": np.full((3, 2), 0.3, np.float32) * np.array([[1, -1]], np.float32), "out": np.ones(2, np.float32)}


def unlearned(implicit: bool, **options: Any) -> hamu_jax.Unlearned:
    optimizer = hamu_jax.hamu(0.2, 0.02, blocks="global", forget_axis=0, num_requests=3)
    groups = Groups(numbers_of, 3, implicit=implicit)
    fixed = {"batch_size": (9, 4), "steps": 5, "progress": False, "measure_every": 1, "microbatch_size": 3}
    return hamu_jax.unlearn(loss, START, RETAIN, FORGET, optimizer, forget_groups=groups, **{**fixed, **options})


@pytest.mark.slow
def test_unlearn_is_as_if_the_gradients_were_stacked() -> None:
    """Small batches, in which some request is often without an example; with a trust region."""
    options = {"trust_region": hamu_jax.TrustRegion(start=0.5)}
    implicit, stacked = unlearned(True, **options), unlearned(False, **options)
    chex.assert_trees_all_close(implicit.params, stacked.params, rtol=1e-4, atol=1e-5)
    for got, expected in zip(implicit.history.rows, stacked.history.rows, strict=True):
        assert list(got) == list(expected)
        for name in ("forget_loss", "fraction", "forget_promised", "least_promised", "least_measured", "step_scale"):
            if name in expected:  # differences of float32 losses near 1
                np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert all(row["fraction"] > 0 for row in implicit.history.rows[:-1])
    assert all(row["least_promised"] > 0 for row in implicit.history.rows[:-1] if row["step_scale"] > 0)


@pytest.mark.slow
def test_what_is_blamed_in_a_stack_that_is_not_held() -> None:
    groups = Groups(numbers_of, 3, implicit=True)
    optimizer = hamu_jax.hamu(0.2, 0.02, blocks="global", forget_axis=0, num_requests=3)
    step = driver_step((loss, loss), optimizer, Stopping(), microbatch_size=None, groups=groups)
    broken = {**FORGET, "x": FORGET["x"].copy()}
    broken["x"][4] = np.nan
    with jax.numpy_dtype_promotion("standard"):
        reason = blame(step, first_carry(START, optimizer), RETAIN, broken)
    assert reason == "the forget loss is nan and its gradient is not finite in 'hidden'"


def temporaries(m: int, implicit: bool, blocks: Any) -> int:
    """The bytes that a compiled step needs beside its arguments and its result; a gradient has 16,512 numbers."""
    params = {"hidden": jnp.ones((128, 128)), "out": jnp.ones(128)}
    batch = {"x": jnp.ones((m, 128)), "y": jnp.ones(m), "group": jnp.arange(m)}
    tx = hamu_jax.combine(QUICK, blocks=blocks, num_requests=m)
    paired = hamu_jax.paired_value_and_grad(loss, microbatch_size=4, forget_groups=Groups(numbers_of, m, implicit=implicit))

    def step(params: Any, batch: Any) -> Any:
        _, grads = paired(params, batch, batch)
        return tx.update(grads.retain, tx.init(params), forget_grads=grads.forget)

    return jax.jit(step).lower(params, batch).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("blocks", [pytest.param("leaf", marks=pytest.mark.slow), "global"])
def test_memory_does_not_grow_with_the_requests(blocks: Any) -> None:
    """But for matrices of `[blocks, m + 1, m + 1]` and copies of the batch."""
    gradient = 16_512 * 4
    grown = {implicit: temporaries(64, implicit, blocks) - temporaries(8, implicit, blocks) for implicit in (True, False)}
    assert grown[False] >= 56 * gradient
    assert grown[True] <= 4 * gradient


@pytest.mark.slow
def test_one_trace() -> None:
    """The stack crosses the border of a jit as an argument."""
    groups = Groups(numbers_of, 3, implicit=True)
    tx = hamu_jax.transform(0.02, blocks="global", forget_axis=0, num_requests=3)
    paired = hamu_jax.paired_value_and_grad(loss, forget_groups=groups)
    chex.clear_trace_counter()

    @functools.partial(jax.jit, compiler_options=PLAIN_COMPILE)
    @chex.assert_max_traces(n=1)
    def apply(retain: Any, stack: Any, state: Any) -> Any:
        return tx.update(retain, state, forget_grads=stack)

    params = jax.tree.map(jnp.asarray, START)
    state = tx.init(params)
    for seed in range(2):
        batch = batch_of(seed, np.arange(6) % 3, np.float32)
        _, grads = paired(params, batch, batch)
        _, state = apply(grads.retain, grads.forget, state)
    assert state.step == 2


def test_single_precision_params_under_x64() -> None:
    params = params_of(np.float32)
    batch = batch_of(1, dtype=np.float32)
    groups = Groups(numbers_of, COUNT, implicit=True)
    tx = hamu_jax.transform(0.1, forget_axis=0, num_requests=COUNT)

    def step(params: Any) -> Any:
        _, grads = hamu_jax.paired_value_and_grad(loss, microbatch_size=4, forget_groups=groups)(params, batch, batch)
        updates, state = tx.update(grads.retain, tx.init(params), forget_grads=grads.forget)
        return updates, hamu_jax.get_requests(state)[:4], stack_changes(grads.forget, updates)

    with jax.enable_x64(True):
        results = jax.eval_shape(step, params)
    assert {x.dtype for x in jax.tree.leaves(results)} == {jnp.dtype(jnp.float32)}
