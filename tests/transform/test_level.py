"""A level for the forget loss: what a step is asked for is what is left, and above the level the loss may fall back."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hamu_jax
from hamu_jax import Level, Regime, rules

RETAIN, FORGET = jnp.array([2.0, 1.0, 0.0]), jnp.array([1.0, 0.0, 2.0])  # kappa = 2: the hard case


def updated(value: float, level: Any, *, retain: Any = RETAIN, forget: Any = FORGET, **options: Any) -> tuple[Any, Any]:
    """The update and the hardness of one step at a forget loss of `value`."""
    extra = {"step_scale": options.pop("step_scale")} if "step_scale" in options else {}
    tx = hamu_jax.transform(0.5, distribution="relative", blocks=options.pop("blocks", "global"), until=level, **options)
    given = {"forget_grads": forget, "forget_value": jnp.float32(value), **extra}
    update, state = jax.jit(tx.update)(retain, tx.init(retain), **given)
    return update, hamu_jax.get_hardness(state)


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (0.0, 2.5),  # 0.5 |g_r| |g_f|, the most that may be asked for
        (1.9, 1.0),  # what is left, 0.1, at a learning rate of 0.1
        (2.0, 0.0),
        (2.04, 0.0),  # within the band
        (2.2, -2.0),  # above it the loss may fall by what it is too high
        (9.0, None),  # here by more than descent on the retain loss takes: the direct case
    ],
)
def test_a_step_is_asked_for_what_is_left(value: float, change: float | None) -> None:
    update, hardness = updated(value, Level(2.0, learning_rate=0.1, band=0.05))
    direction = -np.asarray(update)
    if change is None:
        np.testing.assert_allclose(direction, -np.asarray(RETAIN), rtol=1e-6)
        assert hardness.regime[0] == Regime.DIRECT
        return
    assert direction @ np.asarray(FORGET) == pytest.approx(change, abs=2e-6)
    assert hardness.total_forget_change == pytest.approx(change, abs=2e-6)
    assert np.linalg.norm(direction) == pytest.approx(np.linalg.norm(RETAIN), rel=1e-6)  # the rest of the step repairs


def test_each_level_has_its_own_band() -> None:
    level = Level((1.0, 1.0, 1.0), band=(0.1, 0.5, float("inf")))
    np.testing.assert_allclose(level.gap(jnp.full(3, 1.3)), [-0.3, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(level.bounds(jnp.full(3, 0.5))[1], [0.6, 1.0, np.inf], rtol=1e-6)


@pytest.mark.parametrize("band", [(0.1, 0.2), (0.1, -0.2, 0.1), -1.0, float("nan")])
def test_a_wrong_band_is_refused(band: Any) -> None:
    with pytest.raises(ValueError, match=r"^band: got"):
        Level((1.0, 1.0, 1.0), band=band)


def test_a_negative_requirement_is_optimal() -> None:
    """Of all steps in the ball along which the forget loss falls by at most 1, none lowers the retain loss more (KKT)."""
    update, _ = updated(2.1, Level(2.0, learning_rate=0.1))
    direction = -np.asarray(update, np.float64)
    assert direction @ np.asarray(FORGET) == pytest.approx(-1.0, abs=2e-6)
    # g_r = multiplier g_f - mu d with multiplier, mu >= 0.
    basis = np.stack([np.asarray(FORGET, np.float64), -direction], axis=1)
    weights, residual, *_ = np.linalg.lstsq(basis, np.asarray(RETAIN, np.float64), rcond=None)
    assert np.all(weights > 0)
    assert residual.item() == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(("value", "most"), [(1.93, 1.2), (2.0, 0.5), (2.2, 0.0)])
def test_the_forget_loss_may_not_rise_above_the_band(value: float, most: float) -> None:
    """Opposed gradients: plain descent on the retain loss would raise the forget loss by 1, and is turned."""
    retain = jnp.array([-1.0, 2.0, 0.0])
    update, hardness = updated(value, Level(2.0, learning_rate=0.1, band=0.05), retain=retain)
    direction = -np.asarray(update, np.float64)
    expected = min(most, 1.0)  # descent alone raises it by 1
    assert direction @ np.asarray(FORGET) == pytest.approx(expected, abs=2e-6)
    assert np.linalg.norm(direction) == pytest.approx(np.sqrt(5.0), rel=1e-6)
    assert hardness.regime[0] == (Regime.RECTIFIED if most < 1.0 else Regime.DIRECT)


def test_the_scale_of_the_step_counts() -> None:
    """Half the step, so twice as much per unit of learning rate."""
    _, whole = updated(1.9, Level(2.0, learning_rate=0.1))
    _, half = updated(1.9, Level(2.0, learning_rate=0.1), step_scale=0.5)
    assert half.total_forget_change == pytest.approx(2 * float(whole.total_forget_change), rel=1e-5)


def test_blocks_share_what_is_left() -> None:
    tree = lambda x: {"a": x[:1], "b": x[1:]}  # noqa: E731
    _, hardness = updated(1.99, Level(2.0, learning_rate=0.1), retain=tree(RETAIN), forget=tree(FORGET), blocks="leaf")
    assert hardness.total_improvement == pytest.approx(0.1, rel=1e-5)


def test_what_is_left_is_of_the_loss_itself_where_gradients_are_clipped() -> None:
    _, hardness = updated(1.995, Level(2.0, learning_rate=0.1), clip_norm=1.0)
    assert hardness.total_forget_change == pytest.approx(0.05, rel=1e-4)


def test_every_request_has_its_own_level() -> None:
    """The first is at its level and asks nothing; the second is asked for what is left, the third for the most."""
    forget = jnp.eye(3)
    retain = jnp.array([-1.0, 1.0, 1.0])
    level = Level((1.0, 1.0, 9.0), learning_rate=0.5)
    tx = hamu_jax.transform(
        0.3, blocks="global", distribution="uniform", forget_axis=0, num_requests=3, until=level, radius=2.0
    )
    values = jnp.array([1.0, 0.9, 1.0])
    _, state = tx.update(retain, tx.init(retain), forget_grads=forget, forget_value=values)
    requests = hamu_jax.get_requests(state)
    assert np.all(np.asarray(requests.change)[1:] >= np.array([0.2, 0.3]) - 1e-5)
    assert requests.change[0] >= -1e-5
    assert requests.fraction[0] == 1.0


def test_a_loop_reaches_the_level() -> None:
    """Two quadratics whose levels can be had at no cost: unlearning ends at the level, with the retain loss at its minimum."""

    def losses(w: Any) -> Any:
        return 0.5 * w[0] ** 2, 0.5 * (w[1] - 1.0) ** 2

    tx = hamu_jax.hamu(0.2, 0.5, distribution="cosine", blocks="global", radius=1.0, until=2.0)

    @jax.jit
    def step(w: Any, state: Any) -> Any:
        grads = [jax.grad(lambda w, i=i: losses(w)[i])(w) for i in range(2)]
        updates, state = tx.update(grads[0], state, w, forget_grads=grads[1], forget_value=losses(w)[1])
        return optax.apply_updates(w, updates), state

    w = jnp.array([0.7, 0.5])
    state = tx.init(w)
    for _ in range(60):
        w, state = step(w, state)
    assert losses(w)[1] == pytest.approx(2.0, abs=0.02)
    assert losses(w)[0] < 0.03  # within a step of the minimum


def test_errors() -> None:
    tx = hamu_jax.transform(0.5, until=2.0)
    with pytest.raises(ValueError, match=re.escape("forget_value: got nothing, expected the forget loss, of shape ()")):
        tx.update(RETAIN, tx.init(RETAIN), forget_grads=FORGET)
    with pytest.raises(ValueError, match=re.escape("forget_value: got shape (2,), expected the forget loss, of shape ()")):
        tx.update(RETAIN, tx.init(RETAIN), forget_grads=FORGET, forget_value=jnp.ones(2))
    for rule in (rules.hamu_u(), rules.gdiff()):
        with pytest.raises(ValueError, match="until: got a level with a rule that promises no rise"):
            hamu_jax.combine(rule, until=1.0)
    for value in (np.nan, (), "high"):
        with pytest.raises(ValueError, match="value"):
            Level(value)
    with pytest.raises(ValueError, match=re.escape("learning_rate: got 0.0, expected a positive number")):
        Level(1.0, learning_rate=0.0)
    with pytest.raises(ValueError, match=re.escape("band: got -1.0, expected a number of at least 0")):
        Level(1.0, band=-1.0)
    with pytest.raises(ValueError, match=re.escape("until: got 2 levels, expected 1 or 3")):
        hamu_jax.transform(0.5, forget_axis=0, num_requests=3, until=Level((1.0, 2.0)))
    with pytest.raises(ValueError, match=re.escape("until: got 2 levels, expected 1")):
        hamu_jax.transform(0.5, until=Level((1.0, 2.0)))


def test_a_cosine_is_a_share_of_what_the_ball_allows() -> None:
    """Also where the retain gradient is 0: the shortest step that meets the requirement."""
    tx = hamu_jax.transform(0.5, radius=3.0, distribution="cosine", blocks="global")
    for retain in (RETAIN, jnp.zeros(3)):
        update, state = tx.update(retain, tx.init(retain), forget_grads=FORGET)
        hardness = hamu_jax.get_hardness(state)
        assert hardness.total_forget_change == pytest.approx(0.5 * 3.0 * np.sqrt(5.0), rel=1e-5)
        assert hardness.feasible.all()
    np.testing.assert_allclose(-update, 1.5 * np.asarray(FORGET) / np.sqrt(5.0), rtol=1e-6)
    tx = hamu_jax.transform(0.5, distribution="cosine", blocks="global")
    same = hamu_jax.transform(0.5, distribution="relative", blocks="global")
    for one in (tx, same):
        update, _ = one.update(RETAIN, one.init(RETAIN), forget_grads=FORGET)
        assert -update @ FORGET == pytest.approx(0.5 * 5.0, rel=1e-5)
