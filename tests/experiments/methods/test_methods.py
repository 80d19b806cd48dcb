"""The table of methods: each runs through the one driver, forgets, and is one entry."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from experiments import methods
from experiments.methods.registry import METHODS, Method
from experiments.methods.saliency import masked_updates, saliency_mask
from hamu_jax import objectives, rules

CLASSES, GROUPS = 3, 2
RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(4, CLASSES)), jnp.float32), "b": jnp.zeros(CLASSES)}


def apply(params: Any, batch: Any) -> jax.Array:
    return batch["x"] @ params["w"] + params["b"]


LOSS = objectives.cross_entropy(apply)


def examples(seed: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    plain = {"x": rng.normal(size=(size, 4)).astype(np.float32), "label": rng.integers(0, CLASSES, size).astype(np.int32)}
    return methods.prepare(LOSS, PARAMS, plain, classes=CLASSES, groups=GROUPS, seed=seed)


RETAIN, FORGET = examples(1, 12), examples(2, 6)
SUBJECT = methods.Subject(LOSS, PARAMS, FORGET, hamu_jax.Groups(lambda batch: batch["group"], GROUPS))


pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


def run(method: Method, steps: int = 1) -> hamu_jax.Unlearned:
    built = methods.build_method(method, SUBJECT, learning_rate=0.05, improvement=0.3)
    return hamu_jax.unlearn(
        built.loss, PARAMS, RETAIN, FORGET, built.optimizer, steps=steps, batch_size=12, progress=False, **built.options
    )


def moved(result: hamu_jax.Unlearned) -> Any:
    """What a run did to the parameters."""
    return jax.tree.map(lambda new, old: new - old, result.params, PARAMS)


def change(loss: Any, data: Any, update: Any) -> float:
    """First-order change of the mean of a loss along an update."""
    return float(jnp.mean(hamu_jax.directional(loss, PARAMS, data, update)))


def test_the_table_is_complete() -> None:
    assert list(METHODS) == [
        *("ft", "ga", "gdiff", "kl", "scrub", "gru", "pcgrad", "npo", "simnpo", "random-label", "salun"),
        *("mgda", "cagrad", "nash", "hamu-q", "hamu-u", "hamu-projected"),
    ]


def test_data_hold_what_methods_ask_for() -> None:
    np.testing.assert_allclose(FORGET["teacher"], apply(PARAMS, FORGET), rtol=1e-5, atol=1e-6)
    assert np.all(FORGET["random"] != FORGET["label"])
    np.testing.assert_array_equal(FORGET["group"], [0, 1, 0, 1, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_and_steps_the_right_way(name: str) -> None:
    """Fine-tuning lowers the retain loss, all others raise what is to rise; SCRUB's divergence has no slope at the start."""
    result = run(METHODS[name])
    assert (result.steps, result.status) == (1, "completed")
    if name in ("ft", "scrub", "mgda"):  # MGDA only promises that neither gets worse
        assert change(LOSS, RETAIN, moved(result)) < 0
    else:
        assert change(METHODS[name].forget(SUBJECT), FORGET, moved(result)) > 0
    if name in ("random-label", "salun"):
        assert change(objectives.cross_entropy(apply, label="random"), FORGET, moved(result)) < 0
    if name == "salun":
        wanted = saliency_mask(hamu_jax.weighted_grad(METHODS[name].forget(SUBJECT), PARAMS, FORGET, jnp.ones(6) / 6))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x != 0, moved(result)), wanted)
    if name == "hamu-projected":
        changes = hamu_jax.directional(LOSS, PARAMS, FORGET, moved(result))
        assert all(float(jnp.mean(changes[group::GROUPS])) > 0 for group in range(GROUPS)), "every request gets something"


def test_the_weight_of_the_forget_gradient() -> None:
    """Of methods that add weighted gradients; with the default it is half."""
    weighed = {name for name, method in METHODS.items() if method.weighs}
    assert weighed == {"gdiff", "kl", "scrub", "npo", "simnpo", "random-label", "salun"}
    with pytest.raises(ValueError, match=r"weight: got 0.3 for HAMU-Q, expected None"):
        methods.build_method(METHODS["hamu-q"], SUBJECT, learning_rate=0.1, weight=0.3)
    grads = jax.tree.map(jnp.ones_like, PARAMS), jax.tree.map(lambda x: 2 * jnp.ones_like(x), PARAMS)
    built = methods.build_method(METHODS["gdiff"], SUBJECT, learning_rate=1.0, weight=0.25, clip_norm=None)
    update, _ = built.optimizer.update(grads[0], built.optimizer.init(PARAMS), PARAMS, forget_grads=grads[1])
    jax.tree.map(lambda u: np.testing.assert_allclose(u, -(0.75 - 0.5), rtol=1e-6), update)


@pytest.mark.slow
def test_a_new_method_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CONTRIBUTING says: uniform predictions on the forget set, by gradient difference, on salient weights."""
    entry = Method(
        "saying nothing",
        "arXiv 1812.04606",
        rules.gdiff(),
        forget=lambda subject: objectives.lowered(objectives.uniform(subject.loss.apply)),
        wrap=METHODS["salun"].wrap,
    )
    monkeypatch.setitem(METHODS, "uniform", entry)
    uniform = objectives.uniform(apply)
    before, after = (jnp.mean(uniform(params, FORGET)) for params in (PARAMS, run(METHODS["uniform"], steps=5).params))
    assert after < before


def test_numbers_that_are_tried_are_not_part_of_the_program() -> None:
    """So that a compiled step serves the whole grid."""

    def lowered(learning_rate: float, improvement: float) -> str:
        built = methods.build_method(METHODS["hamu-q"], SUBJECT, learning_rate=learning_rate, improvement=improvement)
        grads = jax.tree.map(jnp.ones_like, PARAMS)
        update = jax.jit(lambda state: built.optimizer.update(grads, state, PARAMS, forget_grads=grads))
        return update.lower(built.optimizer.init(PARAMS)).as_text()

    assert lowered(0.1, 0.3) == lowered(0.2, 0.5)


def test_the_saliency_mask_is_the_larger_half() -> None:
    grads = {"w": jnp.asarray(RNG.normal(size=(5, 7)), jnp.float32), "b": jnp.asarray(RNG.normal(size=9), jnp.float32)}
    mask = saliency_mask(grads)
    sizes = np.concatenate([np.abs(grads[key]).ravel() for key in grads])
    kept = np.concatenate([np.asarray(mask[key]).ravel() for key in grads])
    np.testing.assert_array_equal(kept, sizes >= np.median(sizes))
    assert jax.tree.all(jax.tree.map(jnp.all, saliency_mask(grads, 1.0)))
    assert sum(int(jnp.sum(leaf)) for leaf in saliency_mask(grads, 0.01).values()) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.1, -0.5, float("nan")])
def test_a_fraction_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction: got .*, expected a number above 0 and at most 1"):
        saliency_mask(PARAMS, fraction)


def test_masked_updates_leave_the_rest_alone() -> None:
    mask = {"w": PARAMS["w"] > 0, "b": jnp.array([True, False, True])}
    tx = masked_updates(mask)
    updates = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), PARAMS)
    updates = jax.tree.map(lambda u, keep: jnp.where(keep, 2.0, u), updates, mask)
    masked, state = tx.update(updates, tx.init(PARAMS))
    jax.tree.map(lambda m, keep: np.testing.assert_array_equal(m, np.where(keep, 2.0, 0.0)), masked, mask)
    assert jax.tree.structure(state) == jax.tree.structure(mask)
