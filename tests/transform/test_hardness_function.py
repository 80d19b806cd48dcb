"""`hamu_jax.hardness` and `hamu_jax.get_hardness`, against the definitions in numpy."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hamu_jax
from hamu_jax import Regime

SHAPES = {"a": (3,), "b": (2, 3), "c": (5,)}
Q = 0.8


@pytest.fixture(scope="module")
def pair() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A retain and a forget gradient: leaf `a` is opposed, `b` alike, `c` hardly moves the forget loss."""
    rng = np.random.default_rng(0)
    retain, noise = ({k: rng.normal(size=shape) for k, shape in SHAPES.items()} for _ in range(2))
    forget = {"a": -retain["a"] + 0.1 * noise["a"], "b": retain["b"] + 0.5 * noise["b"], "c": 1e-3 * noise["c"]}
    return retain, forget


def vectors(tree: Any) -> list[np.ndarray]:
    return [np.ravel(leaf) for leaf in tree.values()]


def expected(g: np.ndarray, f: np.ndarray, q: float, r: float) -> dict[str, float]:
    """One block's numbers, from their definitions (docs/mathematics.md, section 2)."""
    rr, ff, kappa = g @ g, f @ f, g @ f
    feasible = q <= r * math.sqrt(ff)
    kappa_1 = -q * math.sqrt(rr) / r
    p = g - kappa / ff * f
    if not feasible:
        d, regime = r * f / math.sqrt(ff), Regime.INFEASIBLE
    elif kappa <= kappa_1:
        d, regime = -r * g / math.sqrt(rr), Regime.DIRECT
    else:
        d, regime = q / ff * f - math.sqrt(r**2 - q**2 / ff) * p / np.linalg.norm(p), Regime.RECTIFIED
    return {
        "kappa": kappa,
        "kappa_1": kappa_1,
        "kappa_2": math.sqrt(rr * (ff - q**2 / r**2)) if feasible else 0.0,
        "cosine": kappa / math.sqrt(rr * ff),
        "angle": math.degrees(math.acos(kappa / math.sqrt(rr * ff))),
        "retain_norm": math.sqrt(rr),
        "forget_norm": math.sqrt(ff),
        "improvement": q,
        "radius": r,
        "regime": regime,
        "feasible": feasible,
        "retain_change": g @ d,
        "forget_change": f @ d,
        "finite": True,
    }


@pytest.mark.usefixtures("x64")
def test_blocks_and_totals(pair: Any) -> None:
    retain, forget = pair
    got = hamu_jax.hardness(retain, forget, Q, distribution="uniform", radius=0.9)
    blocks = [expected(g, f, Q / 3, 0.9) for g, f in zip(vectors(retain), vectors(forget), strict=True)]
    assert {block["regime"] for block in blocks} == {Regime.DIRECT, Regime.RECTIFIED, Regime.INFEASIBLE}
    for name in blocks[0]:
        np.testing.assert_allclose(getattr(got, name), [block[name] for block in blocks], rtol=1e-12, err_msg=name)
    whole = expected(np.concatenate(vectors(retain)), np.concatenate(vectors(forget)), Q, 0.9 * math.sqrt(3))
    whole["retain_change"], whole["forget_change"] = (
        sum(b[name] for b in blocks) for name in ("retain_change", "forget_change")
    )
    for name in ("kappa", "kappa_1", "kappa_2", "cosine", "angle", "retain_norm", "forget_norm", "improvement"):
        np.testing.assert_allclose(getattr(got, f"total_{name}"), whole[name], rtol=1e-12, err_msg=name)
    for name in ("retain_change", "forget_change"):
        np.testing.assert_allclose(getattr(got, f"total_{name}"), whole[name], rtol=1e-12, err_msg=name)
    assert got.unavoidable == (whole["retain_change"] > 0)
    quantity = sum(
        b["radius"] * math.sqrt(b["retain_norm"] ** 2 * b["forget_norm"] ** 2 - b["kappa"] ** 2) / b["retain_norm"]
        for b in blocks
    )
    np.testing.assert_allclose(got.stopping_quantity, quantity, rtol=1e-12)
    assert got.stopping_criterion == (quantity < Q)


@pytest.mark.usefixtures("x64")
def test_the_default_radius_is_the_retain_norm(pair: Any) -> None:
    retain, forget = pair
    got = hamu_jax.hardness(retain, forget, Q, blocks="global")
    g, f = np.concatenate(vectors(retain)), np.concatenate(vectors(forget))
    want = expected(g, f, Q, float(np.linalg.norm(g)))
    for name, value in want.items():
        np.testing.assert_allclose(getattr(got, name), [value], rtol=1e-12, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_variant_u_is_the_exchanged_problem(pair: Any) -> None:
    retain, forget = pair
    got = hamu_jax.hardness(retain, forget, 0.3, variant="u", blocks="global")
    g, f = np.concatenate(vectors(retain)), np.concatenate(vectors(forget))
    want = expected(-f, -g, 0.3, float(np.linalg.norm(f)))  # the roles exchanged, and both signs
    np.testing.assert_allclose(got.retain_change, [-want["forget_change"]], rtol=1e-12)
    np.testing.assert_allclose(got.forget_change, [-want["retain_change"]], rtol=1e-12)
    np.testing.assert_allclose(got.retain_norm, [np.linalg.norm(g)], rtol=1e-12)
    assert got.total_retain_change <= -0.3 * (1 - 1e-12)


def test_it_is_what_the_transform_records(pair: Any) -> None:
    retain, forget = (jax.tree.map(jnp.float32, tree) for tree in pair)
    options = {"distribution": "relative", "infeasible": "skip", "clip_norm": 1.0}
    tx = optax.chain(optax.identity(), hamu_jax.transform(0.5, **options), optax.trace(0.9))
    _, state = tx.update(retain, tx.init(retain), forget_grads=forget)
    recorded, alone = hamu_jax.get_hardness(state), hamu_jax.hardness(retain, forget, 0.5, **options)
    jax.tree.map(np.testing.assert_array_equal, alone, recorded)
    inside = jax.jit(lambda g, f, q: hamu_jax.hardness(g, f, q, **options))(retain, forget, 0.5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7), inside, alone)
    assert len(alone.kappa) == len(hamu_jax.block_labels(retain, "leaf")) == 3


def test_before_the_first_update(pair: Any) -> None:
    state = hamu_jax.hamu(0.1, 0.5).init(jax.tree.map(jnp.float32, pair[0]))
    empty = hamu_jax.get_hardness(state)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(empty))
    assert empty.kappa.shape == (3,)


def test_a_chain_without_or_with_two_of_ours() -> None:
    params = jnp.ones(2)
    none, two = optax.adam(0.1), optax.chain(hamu_jax.transform(0.5), hamu_jax.hamu(0.1, 0.5))
    for tx, count in ((none, 0), (two, 2)):
        with pytest.raises(ValueError, match=f"state: got {count} hamu_jax transforms in it, expected 1"):
            hamu_jax.get_hardness(tx.init(params))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"improvement": -0.1}, ValueError, "improvement: got -0.1, expected a number of at least 0"),
        ({"variant": "Q"}, ValueError, "variant: got 'Q', expected 'q' or 'u'"),
        ({"radius": math.inf}, ValueError, "radius: got inf, expected a number of at least 0"),
        ({"infeasible": "clip"}, ValueError, "infeasible: got 'clip', expected one of scale, ascend, skip"),
        ({"forget_grads": {"w": jnp.ones(3)}}, ValueError, "forget_grads: got shape (3,) at 'w', expected (2,)"),
        ({"retain_grads": {"w": jnp.arange(2)}}, TypeError, "got int32 at 'w', expected a floating-point array"),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    grads = {"w": jnp.ones(2)}
    with pytest.raises(error, match=re.escape(message)):
        hamu_jax.hardness(**{"retain_grads": grads, "forget_grads": grads, **arguments})
