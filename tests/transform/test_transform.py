"""The optax transformation: its state inside jit, scan, checkpoints and schedules, and what it says to bad input."""

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from jax.test_util import check_grads

import hamu_jax
from hamu_jax import rules


def gradients(seed: int, dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {"kernel": jnp.asarray(rng.normal(size=(3, 4)), dtype), "bias": jnp.asarray(rng.normal(size=4), dtype)}


RETAIN, FORGET, PARAMS = gradients(0), gradients(1), gradients(2)


def run(tx: Any, steps: int) -> Any:
    """Steps with the same gradients; the updates of the last."""
    state = tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(RETAIN, state, PARAMS, forget_grads=FORGET)
    return updates, state


def test_scan_is_a_loop() -> None:
    tx = optax.chain(hamu_jax.transform(0.2), optax.sgd(0.1))
    scales = jnp.arange(1.0, 6.0)

    def step(state: Any, scale: Any) -> Any:
        updates, state = tx.update(jax.tree.map(lambda g: scale * g, RETAIN), state, PARAMS, forget_grads=FORGET)
        return state, (updates, hamu_jax.get_hardness(state).total_kappa)

    state, (updates, kappas) = jax.lax.scan(step, tx.init(PARAMS), scales)
    expected = tx.init(PARAMS)
    for i, scale in enumerate(scales):
        expected, (update, kappa) = step(expected, scale)
        np.testing.assert_allclose(kappas[i], kappa, rtol=1e-6)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], updates), update, rtol=1e-5)
    chex.assert_trees_all_close(state, expected, rtol=1e-5)


def test_donated_state_and_one_trace_for_twenty_steps() -> None:
    tx = hamu_jax.hamu(0.1, 0.2, variant="u")
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(params: Any, state: Any, retain: Any) -> Any:
        updates, state = tx.update(retain, state, params, forget_grads=FORGET)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, PARAMS)
    state = tx.init(params)
    for i in range(20):
        before = state
        params, state = donating(params, state, jax.tree.map(lambda g, i=i: g * np.float32(1 + i), RETAIN))
    assert before[0].step.is_deleted()
    assert state[0].step == 20
    assert np.all(np.isfinite(hamu_jax.get_hardness(state).kappa))


def test_the_state_can_be_searched_by_name() -> None:
    state = run(optax.chain(hamu_jax.transform(0.2, blocks="global"), optax.sgd(0.1, momentum=0.9)), 1)[1]
    hardness = hamu_jax.get_hardness(state)
    expected = sum(float(jnp.vdot(RETAIN[name], FORGET[name])) for name in PARAMS)
    np.testing.assert_allclose(optax.tree.get(state, "kappa"), [expected], rtol=1e-5)
    assert optax.tree.get(state, "unavoidable") == hardness.unavoidable
    assert optax.tree.get(state, "unavoidable").dtype == bool


def test_hyperparameters_can_be_injected() -> None:
    make = optax.inject_hyperparams(hamu_jax.transform, static_args=("blocks", "distribution"))
    tx = make(improvement=0.2, radius=2.0, blocks=lambda _: "all", distribution=lambda _rr, _ff, kappa: jnp.ones_like(kappa))
    state = tx.init(PARAMS)
    for improvement in (0.2, 0.7):
        state.hyperparams["improvement"] = jnp.asarray(improvement)
        updates, state = jax.jit(tx.update)(RETAIN, state, PARAMS, forget_grads=FORGET)
        expected, plain = run(hamu_jax.transform(improvement, radius=2.0, blocks="global"), 1)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)
        np.testing.assert_allclose(hamu_jax.get_hardness(state).total_improvement, plain.hardness.total_improvement)


def test_schedules() -> None:
    improvement, radius = optax.linear_schedule(0.0, 0.4, 4), optax.constant_schedule(3.0)
    tx = hamu_jax.transform(improvement, radius=radius, blocks="global")
    for steps in range(1, 5):
        updates, state = run(tx, steps)
        np.testing.assert_allclose(state.hardness.total_improvement, 0.1 * (steps - 1), rtol=1e-6)
        np.testing.assert_allclose(state.hardness.radius, 3.0)
        chex.assert_trees_all_close(
            updates, run(hamu_jax.transform(0.1 * (steps - 1), radius=3.0, blocks="global"), 1)[0], rtol=1e-5
        )


def test_a_learning_rate_scales_step_and_promise_alike() -> None:
    plain, state = run(hamu_jax.transform(0.2), 1)
    scheduled, other = run(hamu_jax.hamu(optax.constant_schedule(0.1), 0.2), 1)
    chained, _ = run(optax.chain(hamu_jax.transform(0.2), optax.sgd(0.1)), 1)
    chex.assert_trees_all_close(scheduled, jax.tree.map(lambda u: -0.1 * u, plain), rtol=1e-6)
    chex.assert_trees_all_equal(scheduled, chained)
    chex.assert_trees_all_equal(hamu_jax.get_hardness(other), state.hardness)


def test_a_checkpoint_restores_the_state(tmp_path: Path) -> None:
    tx = hamu_jax.hamu(0.1, optax.linear_schedule(0.1, 0.5, 3))
    _, state = run(tx, 2)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(PARAMS))
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(restored, state)
    assert hamu_jax.get_hardness(restored).total_improvement > 0


@pytest.mark.usefixtures("x64")
def test_an_update_can_be_differentiated() -> None:
    """As one who learns how to unlearn would: against finite differences, in both modes."""
    rng = np.random.default_rng(0)
    retain, forget = (jnp.asarray(rng.normal(size=(3, 4))) for _ in range(2))
    tx = hamu_jax.transform(0.3, distribution="relative")

    def length(retain: jax.Array, forget: jax.Array) -> jax.Array:
        return jnp.sum(tx.update(retain, tx.init(retain), forget_grads=forget)[0] ** 2 * jnp.arange(12.0).reshape(3, 4))

    check_grads(length, (retain, forget), order=1, atol=1e-6, rtol=1e-6)


def test_other_extra_arguments_are_ignored() -> None:
    tx = optax.chain(hamu_jax.transform(0.2), optax.sgd(0.1))
    updates, _ = tx.update(RETAIN, tx.init(PARAMS), PARAMS, forget_grads=FORGET, value=1.0, anything="else")
    chex.assert_trees_all_equal(updates, run(tx, 1)[0])


def test_combine_is_what_transform_is_made_of() -> None:
    updates, state = run(hamu_jax.combine(rules.hamu_u("skip"), improvement=0.2), 1)
    expected, same = run(hamu_jax.transform(0.2, variant="u", infeasible="skip"), 1)
    chex.assert_trees_all_equal((updates, state), (expected, same))


def test_numpy_gradients_of_double_precision_are_taken_as_jax_takes_them() -> None:
    retain, forget = (jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (RETAIN, FORGET))
    tx = hamu_jax.transform(0.2)
    updates, _ = tx.update(retain, tx.init(retain), forget_grads=forget)
    chex.assert_trees_all_equal(updates, run(tx, 1)[0])


def test_mixed_dtypes_keep_theirs() -> None:
    retain, forget = ({**tree, "bias": tree["bias"].astype(jnp.bfloat16)} for tree in (RETAIN, FORGET))
    tx = hamu_jax.transform(0.2, blocks="global")
    updates, _ = tx.update(retain, tx.init(retain), forget_grads=forget)
    assert (updates["kernel"].dtype, updates["bias"].dtype) == (jnp.float32, jnp.bfloat16)


def test_masked_parameters_are_left_out() -> None:
    """`optax.masked` hides leaves: a hidden one has no block."""
    retain, forget = ({"kernel": tree["kernel"], "bias": optax.MaskedNode()} for tree in (RETAIN, FORGET))
    tx = hamu_jax.transform(0.2)
    updates, state = tx.update(retain, tx.init(retain), forget_grads=forget)
    assert state.hardness.kappa.shape == (1,)
    assert isinstance(updates["bias"], optax.MaskedNode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"improvement": -0.1}, r"improvement: got -0.1, expected a number of at least 0"),
        ({"improvement": float("nan")}, r"improvement: got nan, expected a number of at least 0"),
        ({"improvement": float("inf")}, r"improvement: got inf, expected a number of at least 0"),
        ({"improvement": "much"}, r"improvement: got 'much', expected a number of at least 0 or an optax schedule"),
        ({"improvement": True}, r"improvement: got True, expected a number of at least 0 or an optax schedule"),
        (
            {"improvement": np.ones(3)},
            r"improvement: got an array of shape \(3,\), expected a number of at least 0 or an optax schedule",
        ),
        ({"radius": -1.0}, r"radius: got -1.0, expected a number of at least 0"),
        ({"clip_norm": 0.0}, r"clip_norm: got 0.0, expected a positive number"),
        ({"clip_norm": -1.0}, r"clip_norm: got -1.0, expected a positive number"),
        ({"variant": "x"}, r"variant: got 'x', expected 'q' or 'u'"),
        ({"blocks": "layer"}, r"blocks: got 'layer', expected 'leaf', 'global' or a function from a key path to a label"),
        (
            {"distribution": "even"},
            r"got 'even', expected one of grad_norm, uniform, softmax, relative, cosine, or a",
        ),
        ({"infeasible": "raise"}, r"infeasible: got 'raise', expected one of scale, ascend, skip"),
    ],
    ids=lambda value: "-".join(map(str, value.items())) if isinstance(value, dict) else "",
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hamu_jax.transform(**{"improvement": 0.1, **options})


def test_a_bad_learning_rate() -> None:
    with pytest.raises(ValueError, match=r"learning_rate: got -0.1, expected a number of at least 0"):
        hamu_jax.hamu(-0.1, 0.5)


@pytest.mark.parametrize(
    ("forget", "error", "message"),
    [
        (None, ValueError, r"forget_grads: got nothing, expected the gradient of the forget loss: tx.update\(retain_grads"),
        (
            {"kernel": FORGET["kernel"]},
            ValueError,
            r"forget_grads: got the leaf 'kernel' where updates \(the retain gradient\) has 'bias'",
        ),
        (
            {**FORGET, "scale": jnp.ones(2)},
            ValueError,
            r"forget_grads: got 3 leaves, expected 2 as in updates.*the first that only forget_grads has is 'scale'",
        ),
        (
            {**FORGET, "kernel": jnp.ones((4, 3))},
            ValueError,
            r"forget_grads: got shape \(4, 3\) at 'kernel', expected \(3, 4\) as in updates \(the retain gradient\)",
        ),
        (
            {**FORGET, "kernel": jnp.ones((3, 4), jnp.int32)},
            TypeError,
            r"forget_grads: got int32 at 'kernel', expected a floating-point array(\n|$)",
        ),
        (
            {**FORGET, "kernel": jnp.ones((3, 4), jnp.complex64)},
            TypeError,
            r"forget_grads: got complex64 at 'kernel'.*split_real_and_imaginary",
        ),
        ({**FORGET, "kernel": 1.0}, TypeError, r"forget_grads: got float at 'kernel', expected a floating-point array"),
    ],
    ids=["missing", "fewer", "more", "shape", "integer", "complex", "number"],
)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_bad_gradients(forget: Any, error: type[Exception], message: str, jit: bool) -> None:
    tx = hamu_jax.transform(0.1)
    state = tx.init(PARAMS)

    def update() -> Any:
        return tx.update(RETAIN, state, PARAMS, forget_grads=forget)

    with pytest.raises(error, match=message):
        jax.jit(update)() if jit else update()


def test_the_same_leaves_in_another_container() -> None:
    tx = hamu_jax.transform(0.1)
    retain, forget = [jnp.ones(2)], (jnp.ones(2),)
    with pytest.raises(ValueError, match=r"forget_grads: got the pytree PyTreeDef\(\(\*,\)\), expected PyTreeDef\(\[\*\]\)"):
        tx.update(retain, tx.init(retain), forget_grads=forget)


def test_bad_retain_gradients_and_params() -> None:
    tx = hamu_jax.transform(0.1)
    bad = {**RETAIN, "bias": jnp.ones(4, jnp.int32)}
    with pytest.raises(TypeError, match=r"updates \(the retain gradient\): got int32 at 'bias'"):
        tx.update(bad, tx.init(PARAMS), forget_grads=FORGET)
    with pytest.raises(TypeError, match=r"params: got int32 at 'bias'"):
        tx.init(bad)
    with pytest.raises(ValueError, match=r"params: got a pytree without arrays"):
        tx.init({})


def test_get_hardness_needs_exactly_one() -> None:
    with pytest.raises(ValueError, match=r"state: got 0 hamu_jax transforms in it, expected 1"):
        hamu_jax.get_hardness(optax.sgd(0.1).init(PARAMS))
    two = optax.chain(hamu_jax.transform(0.1), hamu_jax.transform(0.1)).init(PARAMS)
    with pytest.raises(ValueError, match=r"state: got 2 hamu_jax transforms in it, expected 1"):
        hamu_jax.get_hardness(two)
