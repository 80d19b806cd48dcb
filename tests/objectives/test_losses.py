"""Losses against float64 arithmetic, finite differences, and what must never reach them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import objectives

CLASSES, TIME, BATCH = 4, 5, 6
RNG = np.random.default_rng(0)
W = {name: jnp.asarray(RNG.normal(size=(3, CLASSES)), jnp.float32) for name in ("new", "old", "other")}
VISION = {"x": RNG.normal(size=(BATCH, 3)).astype(np.float32), "label": np.array([0, 3, 1, 2, -1, 2], np.int32)}
TOKENS = {
    "x": RNG.normal(size=(BATCH, TIME, 3)).astype(np.float32),
    "label": np.array(
        [[0, 1, 2, 3, 0], [-1, 1, 1, -1, -1], [-1, -1, 3, 0, 2], [-1] * 5, [-1, -1, -1, -1, 2], [3, -1, 3, -1, 1]], np.int32
    ),
}
DATA = {
    "vision": {**VISION, "noise": np.zeros((BATCH, CLASSES), np.float32), "random": VISION["label"][::-1].copy()},
    "tokens": {**TOKENS, "noise": np.zeros((BATCH, TIME, CLASSES), np.float32), "random": (TOKENS["label"] + 1) % 4},
}
DATA["vision"]["random"] = np.where(VISION["label"] >= 0, (VISION["label"] + 1) % CLASSES, -1).astype(np.int32)
DATA["tokens"]["random"] = np.where(TOKENS["label"] >= 0, (TOKENS["label"] + 1) % CLASSES, -1).astype(np.int32)


def apply(params: Any, batch: Any) -> jax.Array:
    return batch["x"] @ params + batch["noise"]


def teacher(batch: Any) -> jax.Array:
    return apply(W["old"].astype(batch["x"].dtype), batch)


def likelihood(kind: str, per: str = "sequence", label: str = "label") -> Any:
    if kind == "vision":
        return objectives.cross_entropy(apply, label=label)
    return objectives.causal_cross_entropy(apply, label=label, per=per)


def build(name: str, kind: str) -> Any:
    """A loss, as a user builds it."""
    whole, mean, wrong = likelihood(kind), likelihood(kind, "token"), likelihood(kind, label="random")

    def original(loss: Any) -> Any:
        return lambda batch: loss(W["old"].astype(batch["x"].dtype), batch)

    return {
        "cross_entropy": lambda: mean,
        "whole": lambda: whole,
        "kl": lambda: objectives.kl(apply, teacher),
        "scrub": lambda: objectives.scrub(mean, objectives.kl(apply, teacher), alpha=0.3, gamma=0.6),
        "npo": lambda: objectives.npo(whole, original(whole), beta=0.7),
        "simnpo": lambda: objectives.simnpo(mean, beta=1.5, gamma=0.2),
        "dpo": lambda: objectives.dpo(wrong, whole, reference=original(wrong), rejected_reference=original(whole), beta=0.4),
        "uniform": lambda: objectives.uniform(apply),
        "entropy": lambda: objectives.entropy(apply),
        "random": lambda: objectives.lowered(likelihood(kind, label="random")),
    }[name]()


NAMES = ("cross_entropy", "whole", "kl", "scrub", "npo", "simnpo", "dpo", "uniform", "entropy", "random")
CASES = [(name, kind) for kind in DATA for name in NAMES]


def expected(name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses and weights by float64 arithmetic, an example at a time."""
    data = DATA[kind]
    values, weights = [], []
    for i in range(BATCH):
        x, label, wrong = (np.atleast_1d(data[key][i]) for key in ("x", "label", "random"))
        rows = np.flatnonzero(label >= 0)
        x = x.reshape(-1, 3).astype(np.float64)[rows]
        new, old = (log_softmax(x @ np.asarray(W[key], np.float64), axis=-1) for key in ("new", "old"))
        count = len(rows)
        per_token = name in ("cross_entropy", "kl", "scrub", "uniform", "entropy")
        weights.append(count if per_token else min(count, 1))
        if count == 0:
            values.append(0.0)
            continue
        at = (np.arange(count), label[rows])
        bad = (np.arange(count), wrong[rows])
        ce, divergence = -new[at].mean(), (np.exp(old) * (old - new)).sum(axis=-1).mean()
        ratio, wrong_ratio = (new[at] - old[at]).sum(), (new[bad] - old[bad]).sum()
        values.append(
            {
                "cross_entropy": ce,
                "whole": -new[at].sum(),
                "kl": divergence,
                "scrub": 0.3 * divergence + 0.6 * ce,
                "npo": 2 / 0.7 * np.log(1 + np.exp(ratio) ** 0.7),
                "simnpo": -2 / 1.5 * np.log(expit(1.5 * ce - 0.2)),
                "dpo": -np.log(expit(0.4 * wrong_ratio - 0.4 * ratio)),
                "uniform": -new.mean(),
                "entropy": -(np.exp(new) * new).sum(axis=-1).mean(),
                "random": new[bad].sum(),
            }[name]
        )
    return np.array(values), np.array(weights)


def wide(kind: str, **changed: np.ndarray) -> dict[str, np.ndarray]:
    """The data in float64."""
    data = {**DATA[kind], **changed}
    return {key: value.astype(np.float64) if value.dtype == np.float32 else value for key, value in data.items()}


@functools.cache
def compiled(name: str, kind: str) -> Any:
    """Losses `[models, batch]` at many parameters, and the gradients `[batch, ...]` of all examples at the first."""
    loss = build(name, kind)

    def run(params: Any, data: Any) -> Any:
        return jax.vmap(loss, (0, None))(params, data), hamu_jax.per_example_grads(loss, params[0], data)

    return jax.jit(run, compiler_options=PLAIN_COMPILE)


def run(name: str, kind: str, data: Any, directions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Runs `compiled` at the new model and around it."""
    around = np.zeros((6, *W["new"].shape)) if directions is None else np.concatenate([directions, -directions])
    params = np.asarray(W["new"], np.float64) + np.concatenate([np.zeros((1, *W["new"].shape)), around])
    return jax.device_get(compiled(name, kind)(params, data))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_values_and_weights(name: str, kind: str, x64: None) -> None:  # noqa: ARG001
    loss, (values, weights) = build(name, kind), expected(name, kind)
    np.testing.assert_allclose(run(name, kind, wide(kind))[0][0], values, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(loss.weights(DATA[kind]), weights)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_are_finite_differences(name: str, kind: str, x64: None) -> None:  # noqa: ARG001
    eps, directions = 1e-5, np.random.default_rng(1).normal(size=(3, *W["new"].shape))
    values, grads = run(name, kind, wide(kind), eps * directions)
    slopes = np.einsum("kij,bij->kb", directions, grads)
    np.testing.assert_allclose((values[1:4] - values[4:]) / (2 * eps), slopes, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_does_not_count_reaches_neither_value_nor_gradient(name: str, kind: str, x64: None) -> None:  # noqa: ARG001
    """Not even as NaN, through the batch's mean or an example's gradient."""
    hidden = DATA[kind]["label"] < 0
    clean = run(name, kind, wide(kind))
    noisy = run(name, kind, wide(kind, noise=np.where(hidden[..., None], np.nan, DATA[kind]["noise"])))
    nothing = np.all(hidden.reshape(BATCH, -1), axis=1)
    for with_noise, without in zip(noisy, clean, strict=True):
        assert np.all(np.isfinite(with_noise))
        np.testing.assert_array_equal(with_noise, without)
    assert np.all(clean[0][:, nothing] == 0)
    assert np.all(clean[1][nothing] == 0)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_example_does_not_depend_on_its_batch(name: str, kind: str, x64: None) -> None:  # noqa: ARG001
    order = np.array([3, 5, 0, 1, 4, 2])
    shuffled = run(name, kind, {key: value[order] for key, value in wide(kind).items()})
    for got, wanted in zip(shuffled, run(name, kind, wide(kind)), strict=True):
        np.testing.assert_allclose(got, wanted[:, order] if got.ndim == 2 else wanted[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", DATA)
def test_good_data_pass(kind: str) -> None:
    for name in NAMES:
        build(name, kind).check(W["new"], DATA[kind], "forget")


def test_the_mean_over_a_batch_is_that_over_its_tokens() -> None:
    losses, _ = hamu_jax.paired_value_and_grad(build("cross_entropy", "tokens"))(W["new"], DATA["tokens"], DATA["tokens"])
    x, labels = DATA["tokens"]["x"].reshape(-1, 3), DATA["tokens"]["label"].reshape(-1)
    each = optax.losses.softmax_cross_entropy_with_integer_labels(x[labels >= 0] @ W["new"], labels[labels >= 0])
    np.testing.assert_allclose(losses.retain, jnp.mean(each), rtol=1e-6)


@pytest.mark.parametrize("kind", DATA)
def test_a_model_does_not_diverge_from_itself(kind: str) -> None:
    loss = objectives.kl(apply, lambda batch: apply(W["new"], batch))
    np.testing.assert_allclose(loss(W["new"], DATA[kind]), 0, atol=1e-7)
    assert np.all(loss(W["old"], DATA[kind])[: BATCH // 2] > 1e-3)
    gradient = jax.grad(lambda w: jnp.sum(loss(w, DATA[kind])))
    assert optax.tree.norm(gradient(W["new"])) < 1e-6 * optax.tree.norm(gradient(W["old"]))


def test_npo_is_gradient_ascent_as_beta_vanishes(x64: None) -> None:  # noqa: ARG001
    """Proposition 1 of arXiv 2404.05868, values and gradients, at the rate of a first-order expansion."""
    data = wide("tokens")
    whole, params = likelihood("tokens"), np.asarray(W["new"], np.float64)
    old = whole(np.asarray(W["old"], np.float64), data)
    counted = np.array([0, 1, 2, 4, 5])
    ascent = -whole(params, data)
    errors = []
    for beta in (1e-2, 1e-3):
        loss = objectives.npo(whole, lambda batch: old[: len(batch["x"])], beta=beta)
        error = np.max(np.abs(loss(params, data) - 2 / beta * np.log(2) - (ascent + old))[counted])
        slope = jax.jacobian(loss)(params, data) + jax.jacobian(whole)(params, data)
        errors.append((error, np.max(np.abs(slope))))
    np.testing.assert_allclose(np.array(errors[0]) / np.array(errors[1]), 10, rtol=0.05)
    assert max(errors[1]) < 0.02


def test_npo_weighs_less_what_is_forgotten() -> None:
    """The gradient is gradient ascent's times `2 p^beta / (p^beta + p_original^beta)`, also far out."""
    far = np.array([0.0, 10.0, 1e4, -1e4], np.float32)
    loss = objectives.npo(lambda w, batch: w * batch, lambda batch: 0.0 * batch, beta=0.5)
    slopes = jax.vmap(jax.grad(lambda w, x: loss(w, x[None])[0]), in_axes=(None, 0))(jnp.float32(1.0), far)
    np.testing.assert_allclose(slopes, -far * 2 * expit(-0.5 * far.astype(np.float64)), rtol=1e-6)


def test_scrub_of_the_reference() -> None:
    """HAMU's experiments mix 0.001 of the divergence with 0.99 of the cross-entropy."""
    loss = objectives.scrub(likelihood("vision"), objectives.kl(apply, teacher))
    (kl, _), (ce, weights) = expected("kl", "vision"), expected("cross_entropy", "vision")
    np.testing.assert_allclose(loss(W["new"], DATA["vision"]), 0.001 * kl + 0.99 * ce, rtol=1e-6)
    np.testing.assert_array_equal(loss.weights(DATA["vision"]), weights)


def test_lowered_changes_nothing_but_the_sign() -> None:
    loss = build("npo", "tokens")
    down = objectives.lowered(loss)
    np.testing.assert_array_equal(down(W["new"], DATA["tokens"]), -loss(W["new"], DATA["tokens"]))
    np.testing.assert_array_equal(down.weights(DATA["tokens"]), loss.weights(DATA["tokens"]))
    plain = objectives.lowered(lambda w, batch: batch["x"] @ w)
    np.testing.assert_array_equal(plain.weights(VISION), np.ones(BATCH))
    plain.check(W["new"], VISION)
    with pytest.raises(ValueError, match=r"forget\['label'\]: got label 9 at example 0"):
        down.check(W["new"], {**DATA["tokens"], "label": np.full((BATCH, TIME), 9)}, "forget")


def test_half_precision_logits_are_widened() -> None:
    loss = objectives.uniform(lambda params, batch: apply(params, batch).astype(jnp.bfloat16))
    assert loss(W["new"], DATA["vision"]).dtype == jnp.float32
    rounded = np.asarray(apply(W["new"], DATA["vision"]).astype(jnp.bfloat16), np.float64)
    wanted = np.where(VISION["label"] >= 0, -log_softmax(rounded, axis=-1).mean(axis=-1), 0)
    np.testing.assert_allclose(loss(W["new"], DATA["vision"]), wanted, rtol=1e-6)


def test_random_labels() -> None:
    labels = np.where(np.arange(9000) % 3 == 2, -1, np.arange(9000) % 5)
    drawn = objectives.random_labels(labels, 5, seed=1)
    np.testing.assert_array_equal(drawn, objectives.random_labels(labels, 5, seed=1))
    assert np.any(drawn != objectives.random_labels(labels, 5, seed=2))
    np.testing.assert_array_equal(drawn == -1, labels == -1)
    moved = (drawn - labels)[labels >= 0] % 5
    assert set(moved) == {1, 2, 3, 4}
    np.testing.assert_allclose(np.bincount(moved)[1:], 1500, rtol=0.1)  # 3 standard deviations of the count are 7%
    with pytest.raises(ValueError, match=r"classes: got 1, expected a whole number of at least 2"):
        objectives.random_labels(labels, 1, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.npo(apply, apply, beta=0.0), "beta: got 0.0, expected a positive number"),
        (lambda: objectives.simnpo(apply, beta=-1.0), "beta: got -1.0, expected a positive number"),
        (lambda: objectives.simnpo(apply, gamma=-0.1), "gamma: got -0.1, expected a number of at least 0"),
        (lambda: objectives.dpo(apply, apply, reference=apply, rejected_reference=apply, beta=np.nan), "beta: got nan"),
        (lambda: objectives.scrub(apply, apply, alpha=-1.0), "alpha: got -1.0, expected a number of at least 0"),
        (lambda: objectives.causal_cross_entropy(apply, per="word"), "per: got 'word', expected one of token, sequence"),
        (
            lambda: objectives.npo(likelihood("vision"), teacher)(W["new"], DATA["vision"]),
            r"reference: got shape \(6, 4\), expected \(6,\): one loss per example",
        ),
        (
            lambda: objectives.kl(apply, lambda batch: batch["x"][:, 0])(W["new"], DATA["tokens"]),
            r"teacher: got logits of shape \(6, 3\), expected \(6, 5\) as the labels, and classes",
        ),
        (
            lambda: likelihood("tokens").check(W["new"], {**DATA["tokens"], "label": np.full((6, 5), 4)}, "retain"),
            r"retain\['label'\]: got label 4 at example 0, position 0, expected 0 to 3, or -1 for padding",
        ),
        (
            lambda: likelihood("tokens").check(W["new"], {**DATA["tokens"], "label": VISION["label"]}),
            r"batch\['label'\]: got shape \(6,\), expected \(6, 5\) for logits \(6, 5, 4\)",
        ),
        (
            lambda: build("dpo", "vision").check(W["new"], {**DATA["vision"], "random": np.full(6, 7)}),
            r"batch\['random'\]: got label 7 at example 0",
        ),
    ],
    ids=lambda x: None if callable(x) else x.split(":")[0],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
