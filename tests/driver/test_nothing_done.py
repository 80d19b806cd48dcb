"""Runs that cannot have done anything do not end as completed; labels and classes that do not fit are errors."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import FORGET, RETAIN, SGD, assert_same, examples, loss, numbers_of, run

import hamu_jax
from hamu_jax import objectives

WEIGHTS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)}


def logits(params: Any, batch: Any) -> Any:
    return batch["x"] @ params["w"]


def labelled(size: int, label: Any = 1) -> dict[str, Any]:
    return {"x": examples(3, size)["x"], "label": np.broadcast_to(np.asarray(label), (size,))}


CROSS_ENTROPY = objectives.cross_entropy(logits)
LABELLED: dict[str, Any] = {"loss": CROSS_ENTROPY, "params": WEIGHTS, "retain": labelled(40, 2), "forget": labelled(20)}


@pytest.mark.parametrize("kind", ["int32", "bool"])
@pytest.mark.parametrize("which", ["loss", "forget_loss"])
def test_losses_that_have_no_gradient(which: str, kind: str) -> None:
    """They were cast to floats, whose gradient is 0."""
    of = lambda params, batch: (loss(params, batch) > 1).astype(kind)  # noqa: E731
    with pytest.raises(TypeError, match=f"loss: got {kind}, expected floating-point losses: others have no gradient"):
        run(**{which: of})
    with pytest.raises(TypeError, match=f"loss: got {kind}, expected floating-point losses"):
        hamu_jax.per_example_grads(of, {"w": jnp.ones(3), "b": jnp.zeros(())}, examples(1, 4))
    with pytest.raises(TypeError, match=f"loss: got {kind}, expected floating-point losses"):
        hamu_jax.evaluate(of, {"w": jnp.ones(3), "b": jnp.zeros(())}, {"all": examples(1, 4)})


def constant(params: Any, batch: Any) -> Any:
    return 0.0 * params["b"] + jnp.ones(batch["y"].shape)


def test_a_constant_forget_loss() -> None:
    ended = run(forget_loss=constant, steps=3)
    assert (ended.status, ended.steps) == ("ineffective", 3)
    assert ended.reason.startswith(
        "all 3 steps were taken, but the forget loss had no gradient at any of them: nothing was forg"
    )


def test_steps_that_move_nothing(tmp_path: Any) -> None:
    """A learning rate of 0; and such a run goes on when more steps are asked for."""
    for steps in (2, 4):
        ended = run(hamu_jax.hamu(0.0, 0.5), steps=steps, checkpoints=hamu_jax.Checkpoints(tmp_path))
        assert (ended.status, ended.steps) == ("ineffective", steps)
        assert ended.reason == f"all {steps} steps were taken, but no parameter has changed: nothing was forgotten"
    assert_same(ended, run(hamu_jax.hamu(0.0, 0.5), steps=4))


@pytest.mark.parametrize("which", ["retain", "forget"])
def test_all_padding(which: str) -> None:
    size = len(LABELLED[which]["x"])
    with pytest.raises(ValueError, match=re.escape(f"{which}: got {size} examples of weight 0 (all their labels are padding)")):
        run(**{**LABELLED, which: labelled(size, -1)})


def test_batches_of_padding() -> None:
    """Of an iterable it is not known before; the status says it."""
    iterable = (labelled(4, -1) for _ in range(100))
    ended = run(hamu_jax.hamu(0.05, 0.5), **{**LABELLED, "forget": iterable, "steps": 3})
    assert ended.status == "ineffective"


@pytest.mark.parametrize(("numbers", "missing"), [(np.full(200, 7), 0), (np.arange(200) % 2, 2), (np.full(200, -1), 0)])
def test_a_request_without_an_example(numbers: Any, missing: int) -> None:
    optimizer = hamu_jax.hamu(0.05, 0.5, forget_axis=0, num_requests=3)
    options = {"forget": {**FORGET, "group": numbers}, "forget_groups": hamu_jax.Groups(numbers_of, 3)}
    with pytest.raises(
        ValueError, match=f"forget_groups: got no example of request {missing} in forget, expected at least one"
    ):
        run(optimizer, **options)


@pytest.mark.parametrize("classes", [1, 7])
def test_a_teacher_with_other_classes(classes: int) -> None:
    """One class was broadcast against four."""
    of = objectives.kl(logits, lambda batch: jnp.zeros((batch["x"].shape[0], classes)))
    with pytest.raises(ValueError, match=re.escape(f"teacher: got logits of shape (5, {classes}), expected (5, 4)")):
        jax.jit(of)(WEIGHTS, labelled(5))


@pytest.mark.parametrize("make", [objectives.cross_entropy, objectives.uniform, objectives.entropy])
def test_float_labels(make: Any) -> None:
    """0.9 was class 0."""
    with pytest.raises(ValueError, match=re.escape("batch['label']: got dtype float32, expected integer class labels")):
        make(logits)(WEIGHTS, labelled(5, np.float32(0.9)))


def test_evaluate_checks_labels() -> None:
    """Accuracy was 0.0 and the loss NaN. The driver looks before the first step, once."""
    message = re.escape("splits['test']['label']: got label 4 at example 0, expected 0 to 3, or -1 for padding")
    with pytest.raises(ValueError, match=message):
        hamu_jax.evaluate(CROSS_ENTROPY, WEIGHTS, {"test": labelled(5, 4)})
    accuracy = hamu_jax.metrics.accuracy(logits)
    plain = lambda params, batch: jnp.sum(logits(params, batch), -1)  # noqa: E731
    with pytest.raises(ValueError, match=message):
        hamu_jax.evaluate(plain, WEIGHTS, {"test": labelled(5, 4)}, {"accuracy": accuracy})
    with pytest.raises(ValueError, match=message):
        run(SGD, **LABELLED, evaluation=hamu_jax.Evaluation({"test": labelled(5, 4)}))


def test_what_can_be_done_still_completes() -> None:
    assert run(**LABELLED, steps=2).status == "completed"
    assert run(retain=RETAIN, forget={**FORGET, "group": np.zeros(200, int)}, steps=2).status == "completed"


def test_groups_and_forget_axis_go_together() -> None:
    with pytest.raises(ValueError, match="forget_groups: got None, expected Groups for an optimizer with forget_axis=0"):
        run(hamu_jax.hamu(0.05, 0.5, forget_axis=0, num_requests=3))
    with pytest.raises(ValueError, match="forget_groups: got Groups, expected None for an optimizer without forget_axis=0"):
        run(forget_groups=hamu_jax.Groups(numbers_of, 3))
