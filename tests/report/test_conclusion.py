"""The paragraph of a report: the words fit the numbers, and the worst comes first."""

import math
import re
from typing import Any

import pytest

import hamu_jax
from hamu_jax import report

MODELS = {
    "full": {"test retain/accuracy": 0.978, "test forget/accuracy": 0.973},
    "unlearned": {"test retain/accuracy": 0.96, "test forget/accuracy": 0.01},
    "retrained": {"test retain/accuracy": 0.966, "test forget/accuracy": 0.0},
}


def row(step: int) -> dict[str, Any]:
    """What the driver writes for a step; the level is reached at step 6, and from step 7 on a rise is unavoidable."""
    evaluated = {"test forget/accuracy": max(0.9 - 0.15 * step, 0.01)} if step % 2 == 0 else {}
    return {"step": step, **evaluated, "unavoidable": step in (7, 9)}


def result(rows: list[dict[str, Any]] | None = None, **changed: Any) -> hamu_jax.Unlearned:
    """A run as the driver returns it."""
    rows = [*map(row, range(10)), {"step": 10, "test forget/accuracy": 0.01}] if rows is None else rows
    ended = {"steps": 10, "status": "completed", "reason": "all 10 steps were taken", **changed}
    return hamu_jax.Unlearned({}, (), hamu_jax.History(rows), **ended)


def conclude(run: hamu_jax.Unlearned | None = None, models: Any = MODELS, **options: Any) -> str:
    options = {"retrained": "retrained", "along": "test forget/accuracy", **options}
    names = {"retain": "test retain/accuracy", "forget": "test forget/accuracy", "unlearned": "unlearned", "original": "full"}
    return report.conclude(run or result(), models, **names, **options)


def with_unlearned(retain: float, forget: float) -> Any:
    return {**MODELS, "unlearned": {"test retain/accuracy": retain, "test forget/accuracy": forget}}


def test_the_whole_paragraph() -> None:
    assert conclude() == (
        "**It was forgotten.** On new examples of what was to be forgotten, the model is now right on 1.0%, where it was right "
        "on 97.3% before, a model trained without it on 0.0%. **The price:** on everything else it is right on 96.0% of new "
        "examples, 97.8% before: a loss of 1.8 points; the model trained without it has 96.6%. **Where to stop:** the run "
        "ended after 10 steps (all 10 steps were taken). The forget level was reached by step 6: further steps only deepen it. "
        "From step 7 on a rise of the retain loss was unavoidable at times: consider stopping there. "
        "This is evidence about these measurements, not a certificate that no trace is left."
    )


@pytest.mark.parametrize(
    ("retain", "forget", "words"),
    [
        (0.96, 0.0199, "**It was forgotten.**"),
        (0.96, 0.021, "**It was NOT forgotten.**"),
        (0.978, 0.0, "97.8% before: no change;"),
        (0.99, 0.0, "a gain of 1.2 points;"),
        (0.9, 0.0, "a loss of 7.8 points;"),
    ],
)
def test_words_for_numbers(retain: float, forget: float, words: str) -> None:
    assert words in conclude(models=with_unlearned(retain, forget))


def test_without_a_retrained_model() -> None:
    words = conclude(retrained=None, along=None)
    assert "trained without it" not in words
    assert "The forget level" not in words
    assert words.startswith("**It was forgotten.**")


def test_where_to_stop() -> None:
    calm = [{**row(step), "unavoidable": False, "test forget/accuracy": 0.5} for step in range(3)]
    words = conclude(result(calm, reason="before step 2: patience", steps=2))
    assert "the run ended after 2 steps (before step 2: patience)." in words
    assert "The forget level was reached" not in words
    assert "At no step was a rise of the retain loss unavoidable." in words


def verdict(before: tuple[float, float], after: tuple[float, float], never: Any = None, steps: int = 10, **options: Any) -> str:
    """The first sentence, of numbers `(retain, forget)`; columns are accuracies unless `metric` says otherwise."""
    metric = options.pop("metric", "accuracy")
    columns = (f"test retain/{metric}", f"test forget/{metric}")
    models = {name: dict(zip(columns, numbers, strict=True)) for name, numbers in (("full", before), ("unlearned", after))}
    if never is not None:
        models["retrained"] = dict(zip(columns, never, strict=True))
        options["retrained"] = "retrained"
    words = report.conclude(
        result(steps=steps), models, retain=columns[0], forget=columns[1], unlearned="unlearned", original="full", **options
    )
    assert "right on" in words if metric == "accuracy" else "right on" not in words
    return words[: words.index(" On ")]


FORGOTTEN, NOT, NOTHING = "**It was forgotten.**", "**It was NOT forgotten.**", "**No measurable change.**"


@pytest.mark.parametrize(
    ("before", "after", "never", "expected"),
    [
        ((0.94, 0.9), (0.94, 0.0), (0.93, 0.0), FORGOTTEN),
        ((0.94, 0.9), (0.47, 0.0), (0.93, 0.0), "**The model was damaged.** It was forgotten."),
        ((0.94, 0.9), (0.47, 0.8), (0.93, 0.0), "**The model was damaged.** It was NOT forgotten."),
        ((0.94, 0.9), (0.94, 0.9), (0.93, 0.0), NOTHING),
        ((0.94, 0.01), (0.94, 0.01), (0.93, 0.0), NOTHING),  # at the level before, and nothing was done
        ((0.94, 0.9), (0.93, 0.91), (0.93, 0.0), NOTHING),
        ((0.94, 0.9), (0.47, 0.9), (0.93, 0.0), "**The model was damaged.** It was NOT forgotten."),
        ((0.94, 0.95), (0.95, 0.80), (0.94, 0.81), FORGOTTEN),  # random rows
        ((0.94, 0.95), (0.95, 0.20), (0.94, 0.81), "**It was forgotten too far: a model that never saw it does better.**"),
        ((0.94, 0.82), (0.97, 0.81), (0.94, 0.81), "**It was at the level of unseen data before the run.**"),
        ((0.94, 0.95), (0.95, 0.80), None, "**It is known less well; whether that is enough cannot be said without a level.**"),
        ((0.94, 0.95), (0.95, 0.99), None, NOT),
        ((0.94, 0.95), (math.nan, 0.0), (0.93, 0.0), "**The model was damaged:** a number is not finite."),
        ((0.94, 0.95), (0.94, math.inf), (0.93, 0.0), "**The model was damaged:** a number is not finite."),
        ((0.94, math.nan), (0.94, 0.0), (0.93, 0.0), "**Whether it was forgotten cannot be said: a number is not finite.**"),
    ],
)
def test_verdicts_on_accuracies(before: Any, after: Any, never: Any, expected: str) -> None:
    assert verdict(before, after, never) == expected


@pytest.mark.parametrize(
    ("before", "after", "never", "expected"),
    [
        ((0.43, 0.05), (0.40, 0.55), (0.41, 0.57), FORGOTTEN),  # a loss must rise
        ((0.43, 0.05), (0.85, 0.55), (0.41, 0.57), "**The model was damaged.** It was forgotten."),
        ((0.1, 0.05), (6e18, 0.0501), (0.41, 0.57), "**The model was damaged.** It was NOT forgotten."),
        ((0.43, 0.05), (0.43, 0.2), (0.41, 0.57), NOT),
        ((0.43, 0.05), (0.43, 0.051), (0.41, 0.57), NOTHING),
        ((0.43, 1.485), (0.43, 1.485), (0.41, 1.5), NOTHING),
        ((0.43, 0.05), (0.43, 3.0), (0.41, 0.57), "**It was forgotten too far: a model that never saw it does better.**"),
        ((0.43, 0.05), (0.43, 0.5), None, "**It is known less well; whether that is enough cannot be said without a level.**"),
        ((0.0, 0.0), (0.0, 0.5), (0.0, 0.5), FORGOTTEN),
        ((0.0, 0.0), (0.1, 0.0), (0.0, 0.5), "**The model was damaged.** It was NOT forgotten."),
    ],
)
def test_verdicts_on_losses(before: Any, after: Any, never: Any, expected: str) -> None:
    assert verdict(before, after, never, metric="loss") == expected


def test_a_run_without_a_step_changed_nothing() -> None:
    assert verdict((0.94, 0.9), (0.94, 0.0), (0.93, 0.0), steps=0) == NOTHING
    assert "At no step" not in conclude(result([{"step": 0, "test forget/accuracy": 0.0}], steps=0))


def test_the_level_of_unseen_examples() -> None:
    assert verdict((0.94, 0.95), (0.94, 0.80), level=0.81) == FORGOTTEN
    assert verdict((0.4, 0.1), (0.4, 0.6), metric="loss", level=0.6) == FORGOTTEN
    assert verdict((0.4, 0.1), (0.4, 0.6), metric="loss", level=0.6, damage=0.0) == FORGOTTEN
    assert verdict((0.4, 0.1), (0.4, 0.6), metric="loss", level=0.8, tolerance=0.3) == FORGOTTEN
    assert verdict((0.4, 0.1), (0.41, 0.6), metric="loss", level=0.6, damage=0.0).startswith("**The model was damaged.**")


def test_which_numbers_are_good_can_be_said() -> None:
    """A number between 0 and 1 of which small is good is no percentage, and one that is called a loss may be a gain."""
    assert verdict((0.4, 0.1), (0.2, 0.6), (0.4, 0.6), metric="brier").startswith("**The model was damaged.**")
    low = ("test retain/brier", "test forget/brier")
    assert verdict((0.4, 0.1), (0.2, 0.6), (0.4, 0.6), metric="brier", lower_is_better=low) == FORGOTTEN


def test_a_regression_in_words() -> None:
    models = {"full": {"a/loss": 0.431, "b/loss": 0.05}, "unlearned": {"a/loss": 0.395, "b/loss": 1.485}}
    words = report.conclude(
        result(), models, retain="a/loss", forget="b/loss", unlearned="unlearned", original="full", level=1.5
    )
    assert words.startswith(
        "**It was forgotten.** On examples of what was to be forgotten, its loss is now 1.49, where it was 0.05 before, that "
        "of unseen ones 1.5. **The price:** on everything else its loss is 0.395, 0.431 before: a fall of 8.35%. **Where"
    )
    assert "%" not in words.replace("a fall of 8.35%", "")


def test_the_step_at_which_a_loss_reached_its_level() -> None:
    rows = [{"step": step, "b/loss": 0.1 * step, "unavoidable": False} for step in range(8)]
    models = {"full": {"a/loss": 0.4, "b/loss": 0.0}, "unlearned": {"a/loss": 0.4, "b/loss": 0.7}}
    names = {"retain": "a/loss", "forget": "b/loss", "unlearned": "unlearned", "original": "full"}
    assert "by step 5:" in report.conclude(result(rows), models, **names, along="b/loss", level=0.5)
    assert "level was reached" not in report.conclude(result(rows), models, **names, along="b/loss")
    already = report.conclude(result(rows), models, **names, along="b/loss", level=0.0)
    assert "The forget level was reached before the first step." in already


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unlearned": "x"}, "unlearned: got 'x', expected one of the models 'full', 'unlearned', 'retrained'"),
        ({"retrained": "x"}, "retrained: got 'x', expected one of the models"),
        ({"retain": "x"}, "retain: got 'x', expected a column of the unlearned model: 'test retain/accuracy', 'test forget"),
        (
            {"along": "validation/loss"},
            "along: got 'validation/loss', expected a column of the same metric as 'test forget/acc",
        ),
        ({"tolerance": -1}, "tolerance: got -1, expected a number of at least 0"),
        ({"damage": math.nan}, "damage: got nan, expected a number of at least 0"),
    ],
)
def test_errors(options: Any, message: str) -> None:
    names = {"retain": "test retain/accuracy", "forget": "test forget/accuracy", "unlearned": "unlearned", "original": "full"}
    with pytest.raises(ValueError, match=re.escape(message)):
        report.conclude(result(), MODELS, **{**names, **options})
