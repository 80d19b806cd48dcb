"""A whole step: several blocks, clipping, and invariance to how parameters are cut into tensors."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_gradient_problems import AS_USERS_COMPILE, flat

import hamu_jax
from hamu_jax import Regime, Stacked

SHAPES = {"a": (6, 4), "b": (5,), "c": (3, 2)}
variants = pytest.mark.parametrize("variant", ["q", "u"])


def gradients(seed: int, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def solve(retain: Any, forget: Any, improvement: float, **options: Any) -> Any:
    """The direction and the measurement, in float64."""
    with jax.enable_x64(True):
        tx = hamu_jax.transform(improvement, **options)
        updates, state = tx.update(retain, tx.init(retain), forget_grads=forget)
        return jax.device_get((jax.tree.map(jnp.negative, updates), state.hardness))


def assert_same(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(flat(got, 0), flat(expected, 0), rtol=0, atol=tolerance)


@given(seed=st.integers(0, 2**31), variant=st.sampled_from("qu"), share=st.sampled_from([0.0, 1e-3, 0.3, 0.9, 0.999, 1.2]))
def test_globally_a_tensor_may_be_cut_in_two(seed: int, variant: str, share: float) -> None:
    retain, forget = gradients(seed), gradients(seed + 1)
    guaranteed, free = (forget, retain) if variant == "q" else (retain, forget)
    improvement = share * np.linalg.norm(flat(guaranteed, 0)) * np.linalg.norm(flat(free, 0))

    def in_two(tree: Any) -> Any:
        return {"a0": tree["a"][:2], "a1": tree["a"][2:], "b": tree["b"], "c": tree["c"]}

    whole, measured = solve(retain, forget, improvement, blocks="global", variant=variant)
    parts, of_parts = solve(in_two(retain), in_two(forget), improvement, blocks="global", variant=variant)
    assert_same(parts, whole, 1e-11)
    assert_same(of_parts, measured, 1e-9)


@pytest.mark.parametrize(("variant", "order"), [("q", "cab"), ("u", "bca")])
def test_the_order_of_blocks_does_not_matter(variant: str, order: str) -> None:
    retain, forget = gradients(20), gradients(21)
    names = {name: str(place) for place, name in enumerate(order)}

    def renamed(tree: Any) -> Any:
        return {names[name]: x for name, x in tree.items()}

    step, measured = solve(retain, forget, 0.5, variant=variant)
    moved, of_moved = solve(renamed(retain), renamed(forget), 0.5, variant=variant)
    assert_same(moved, renamed(step))
    places = [int(names[name]) for name in sorted(SHAPES)]
    for before, after in zip(measured, of_moved, strict=True):
        np.testing.assert_allclose(after[places] if np.ndim(after) else after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("variant", "distribution"), [("q", "grad_norm"), ("u", "softmax")])
def test_a_scanned_leaf_is_as_many_leaves(variant: str, distribution: str) -> None:
    retain, forget = gradients(0), gradients(1)

    def unstacked(tree: Any) -> Any:
        return {
            "b": tree["b"],
            **{f"a{i}": x for i, x in enumerate(tree["a"])},
            **{f"c{i}": x for i, x in enumerate(tree["c"])},
        }

    def label(path: Any) -> Any:
        name = path[0].key
        return Stacked(name) if name in "ac" else name

    options = {"variant": variant, "distribution": distribution}
    stacked, measured = solve(retain, forget, 0.5, blocks=label, **options)
    separate, of_separate = solve(unstacked(retain), unstacked(forget), 0.5, **options)
    assert_same(unstacked(stacked), separate)
    assert hamu_jax.block_labels(retain, label) == (*(f"a/{i}" for i in range(6)), "b", *(f"c/{i}" for i in range(3)))
    assert_same(measured, of_separate)


@variants
def test_layers_of_a_scan_can_share_blocks_over_leaves(variant: str) -> None:
    """Kernel and bias of layer i, each stacked, are one block: the same as separate pairs under one label."""
    rng = np.random.default_rng(2)
    retain, forget = ({"kernel": rng.normal(size=(3, 2, 2)), "bias": rng.normal(size=(3, 2))} for _ in range(2))

    def layers(tree: Any) -> Any:
        return [{"kernel": tree["kernel"][i], "bias": tree["bias"][i]} for i in range(3)]

    together, _ = solve(retain, forget, 0.5, blocks=lambda _: Stacked("layer"), variant=variant)
    separate, _ = solve(layers(retain), layers(forget), 0.5, blocks=lambda path: path[0].idx, variant=variant)
    assert_same(layers(together), separate)


DISTRIBUTIONS = {
    "grad_norm": lambda lengths, _: lengths / lengths.sum(),
    "uniform": lambda lengths, _: np.ones_like(lengths) / len(lengths),
    "softmax": lambda _, kappa: np.exp(-kappa) / np.exp(-kappa).sum(),
    "relative": lambda lengths, _: lengths,
    "a function": lambda lengths, kappa: lengths * np.exp(-np.abs(kappa)),
}


def own_shares(retain_square: Any, forget_square: Any, kappa: Any) -> Any:
    """The last of `DISTRIBUTIONS` as a user passes it."""
    return jnp.sqrt(retain_square * forget_square) * jnp.exp(-jnp.abs(kappa))


@pytest.mark.parametrize(("variant", "distribution"), list(zip("ququq", DISTRIBUTIONS, strict=True)))
def test_every_block_solves_its_own_problem(variant: str, distribution: str) -> None:
    retain, forget = gradients(3), gradients(4)
    option = own_shares if distribution == "a function" else distribution
    steps, measured = solve(retain, forget, 0.05, distribution=option, variant=variant)
    lengths = np.array([np.linalg.norm(retain[name]) * np.linalg.norm(forget[name]) for name in sorted(SHAPES)])
    np.testing.assert_allclose(measured.improvement, 0.05 * DISTRIBUTIONS[distribution](lengths, measured.kappa), rtol=1e-12)
    for block, name in enumerate(sorted(SHAPES)):
        alone, of_alone = solve(retain[name], forget[name], measured.improvement[block], blocks="global", variant=variant)
        assert_same(steps[name], alone)
        for field in ("kappa", "angle", "regime", "retain_change", "kappa_1", "kappa_2", "radius"):
            np.testing.assert_allclose(getattr(measured, field)[block], getattr(of_alone, field)[0], rtol=1e-12, err_msg=field)
    np.testing.assert_allclose(measured.total_retain_change, np.sum(measured.retain_change), rtol=1e-13)
    # The promises of the blocks add up.
    kept = flat(forget, 0) @ flat(steps, 0) if variant == "q" else -flat(retain, 0) @ flat(steps, 0)
    assert kept >= measured.total_improvement - 1e-12


@variants
def test_relative_shares_are_feasible_below_one(variant: str) -> None:
    for seed in range(10):
        for improvement, possible in ((0.999, True), (1.001, False)):
            required = lambda _, value=improvement: jnp.asarray(value)  # noqa: E731  (a number above 1 is refused)
            _, measured = solve(gradients(seed), gradients(seed + 50), required, distribution="relative", variant=variant)
            np.testing.assert_array_equal(measured.feasible, possible)


@pytest.mark.parametrize(("variant", "clip_norm"), [("q", 1e-3), ("u", 1.0), ("q", 1e3)])
def test_clipping_is_clipping_first(variant: str, clip_norm: float) -> None:
    """As the reference clips: both gradients to a global norm, `min(1, clip / (norm + 1e-6))`."""
    retain, forget = gradients(5), gradients(6)
    scales = [min(1.0, clip_norm / (np.linalg.norm(flat(tree, 0)) + 1e-6)) for tree in (retain, forget)]
    clipped = [jax.tree.map(lambda x, s=s: s * x, tree) for s, tree in zip(scales, (retain, forget), strict=True)]
    improvement = 0.3 * min(1.0, clip_norm**2)
    step, measured = solve(retain, forget, improvement, clip_norm=clip_norm, variant=variant)
    expected, of_clipped = solve(*clipped, improvement, variant=variant)
    assert_same(step, expected, 1e-13 * np.linalg.norm(flat(expected, 0)))
    for field in ("kappa", "angle", "retain_norm", "forget_norm", "radius", "stopping_quantity", "total_kappa_2"):
        np.testing.assert_allclose(getattr(measured, field), getattr(of_clipped, field), rtol=1e-12, err_msg=field)
    # Predicted changes are those of the losses themselves, whose gradients were not clipped.
    np.testing.assert_allclose(measured.total_retain_change, flat(retain, 0) @ flat(step, 0), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(measured.total_forget_change, flat(forget, 0) @ flat(step, 0), rtol=1e-10, atol=1e-15)


def test_predicted_changes_are_the_losses_derivatives() -> None:
    """Against finite differences of real losses, along the step that `optax.sgd` takes."""
    with jax.enable_x64(True):
        centres = [jax.tree.map(jnp.asarray, gradients(seed)) for seed in (7, 8)]
        params = jax.tree.map(jnp.asarray, gradients(9))

        def losses(params: Any) -> Any:
            return tuple(0.5 * optax.tree.norm(optax.tree.sub(params, centre)) ** 2 for centre in centres)

        retain, forget = (jax.grad(lambda p, i=i: losses(p)[i])(params) for i in (0, 1))
        step, measured = solve(retain, forget, 3.0, blocks="global")
        rate = 1e-6
        (up, down) = (losses(jax.tree.map(lambda p, d, e=e: p + e * rate * d, params, step)) for e in (1, -1))
        changes = [(after - before) / (2 * rate) for after, before in zip(up, down, strict=True)]
    # Differences of losses of about 100 at 1e-6: 1e-8 of rounding.
    np.testing.assert_allclose(changes, [measured.total_retain_change, measured.total_forget_change], rtol=1e-7, atol=1e-7)
    assert measured.total_forget_change >= 3.0 - 1e-12


def test_numbers_of_the_whole_model() -> None:
    """From concatenated gradients: also where blocks are nearly parallel and the whole is not."""
    retain, forget = gradients(10), gradients(11)
    forget["b"] = 2 * retain["b"] + 1e-6 * forget["b"]
    _, measured = solve(retain, forget, 0.1)
    r, f = flat({k: retain[k] for k in sorted(retain)}, 0), flat({k: forget[k] for k in sorted(forget)}, 0)
    cosine = r @ f / np.linalg.norm(r) / np.linalg.norm(f)
    np.testing.assert_allclose(measured.total_kappa, r @ f, rtol=1e-12)
    np.testing.assert_allclose(measured.total_cosine, cosine, rtol=1e-12)
    np.testing.assert_allclose(measured.total_angle, np.degrees(np.arccos(cosine)), rtol=1e-12)
    np.testing.assert_allclose(measured.total_improvement, 0.1, rtol=1e-12)
    _, whole = solve(retain, forget, 0.1, blocks="global")
    np.testing.assert_allclose(measured.total_kappa_1, whole.kappa_1[0], rtol=1e-12)
    np.testing.assert_allclose(measured.total_kappa_2, whole.kappa_2[0], rtol=1e-12)


@pytest.mark.parametrize("leaf", sorted(SHAPES))
def test_a_bad_number_in_one_slice_of_a_stack(leaf: str) -> None:
    retain, forget = gradients(12, np.float32), gradients(13, np.float32)
    retain[leaf].flat[-1] = np.nan
    tx = hamu_jax.transform(0.1, blocks=lambda path: Stacked(path[0].key))
    updates, state = tx.update(retain, tx.init(retain), forget_grads=forget)
    labels = hamu_jax.block_labels(retain, lambda path: Stacked(path[0].key))
    bad = f"{leaf}/{SHAPES[leaf][0] - 1}"
    np.testing.assert_array_equal(state.hardness.finite, [label != bad for label in labels])
    chex.assert_trees_all_equal(updates, jax.tree.map(np.zeros_like, retain))


def test_empty_leaves_are_harmless() -> None:
    retain, forget = ({"a": np.arange(3.0) + i, "none": np.zeros((0, 4))} for i in (1, 2))
    step, measured = solve(retain, forget, 0.5)
    alone, _ = solve({"a": retain["a"]}, {"a": forget["a"]}, 0.5)
    assert_same(step["a"], alone["a"])
    assert measured.regime[1] == Regime.DIRECT


@pytest.mark.parametrize("variant", ["q", "u"])
def test_nothing_but_the_residual_is_kept(variant: str) -> None:
    """Not a negated gradient: what is kept between the passes has the size of the parameters at most."""
    shapes = {"a": jax.ShapeDtypeStruct((4096, 1024), jnp.float32), "b": jax.ShapeDtypeStruct((4, 1024, 1024), jnp.float32)}
    tx = hamu_jax.transform(0.1, variant=variant, clip_norm=1.0)
    state = jax.eval_shape(tx.init, shapes)
    update = jax.jit(lambda retain, forget, state: tx.update(retain, state, forget_grads=forget))
    compiled = update.lower(shapes, shapes, state).compile(AS_USERS_COMPILE)
    assert compiled.memory_analysis().temp_size_in_bytes < 1.01 * 4 * sum(x.size for x in shapes.values())
