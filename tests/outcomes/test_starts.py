"""The outcome does not depend on where a run starts: nine starts of a run put together from the public parts."""

from collections.abc import Callable
from typing import Any

import optax
import pytest
from trained_models import TrainedModel, accuracy, digits_classifier, take

import hamu_jax

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """One digit of a network after six epochs is to be forgotten, to the level of a guess."""
    return digits_classifier(0, 3)


def below(loss: Any, lowest: float) -> Callable[..., Any]:
    """A metric: how far a loss is below the lower end of the band around the level."""
    return lambda params, batch: lowest - loss(params, batch)


def unlearned(model: TrainedModel, cosine: float, first_length: float) -> hamu_jax.Unlearned:
    """A run to the level. Each step is asked for at most this cosine, and the first one has this length."""
    assert model.level is not None
    level = hamu_jax.Level(model.level, band=0.1 * model.level)
    steps = hamu_jax.transform(cosine, blocks="global", radius=1.0, distribution="cosine", clip_norm=1.0, until=level)
    splits = {"held_out": take(model.retain, slice(150)), "forget": model.forget}
    return hamu_jax.unlearn(
        model.loss,
        model.params,
        take(model.retain, slice(150, None)),
        model.forget,
        optax.chain(steps, optax.scale(-1.0)),
        steps=200,
        batch_size=(256, 256),
        evaluation=hamu_jax.Evaluation(splits, {"below": below(model.loss, 0.9 * model.level)}, every=5),
        trust_region=hamu_jax.TrustRegion(first_length, level),
        keep=hamu_jax.KeepBest("held_out/loss", among="forget/below", patience=6),
        progress=False,
    )


@pytest.mark.parametrize("cosine", [0.2, 0.3, 0.5])
@pytest.mark.parametrize("first_length", [0.01, 0.05, 0.1])
def test_every_start_has_the_same_outcome(model: TrainedModel, cosine: float, first_length: float) -> None:
    """The forget loss within 15% of the level, accuracy on the other digits at most 1 point lower."""
    result = unlearned(model, cosine, first_length)
    best = next(row for row in result.history.rows if row["step"] == result.best_step)
    test = [accuracy(params, model.test) for params in (model.params, result.params)]
    print(
        f"\ncosine {cosine}, first length {first_length}: {result.best_step} of {result.steps} steps; forget loss "
        f"{best['forget/loss']:.3f}; held-out loss {best['held_out/loss']:.4f}; test accuracy {test[0]:.3f} to {test[1]:.3f}"
    )
    assert best["forget/loss"] == pytest.approx(model.level, rel=0.15)
    assert test[1] >= test[0] - 0.01
    assert best["held_out/loss"] <= result.history.rows[0]["held_out/loss"]
