"""The report: every file is there and readable, whatever the run went through, and the words fit the numbers."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import hamu_jax
from hamu_jax import report
from hamu_jax._base.optional import require

WATCHED = {"kept": "test retain/accuracy", "forgotten": "test forget/accuracy"}
MODELS = {
    "full": {"test retain/accuracy": 0.978, "test forget/accuracy": 0.973},
    "unlearned": {"test retain/accuracy": 0.96, "test forget/accuracy": 0.01},
    "retrained": {"test retain/accuracy": 0.966, "test forget/accuracy": 0.0},
}


def row(step: int) -> dict[str, Any]:
    """What the driver writes for a step; forgetting is reached at step 6, and from step 7 on a rise is unavoidable."""
    evaluated = {"test retain/accuracy": 0.97, "test forget/accuracy": max(0.9 - 0.15 * step, 0.01)} if step % 2 == 0 else {}
    return {
        "step": step,
        **evaluated,
        "cosine": -0.8 + 0.2 * step,
        "kappa": 6.0 * (-0.8 + 0.2 * step),
        "kappa_1": -0.5,
        "kappa_2": 4.0,
        "retain_norm": 2.0,
        "forget_norm": 3.0,
        "unavoidable": step in (7, 9),
        "forget_promised": 0.1 * (step + 1),
        "forget_measured": 0.11 * (step + 1),
    }


def result(rows: list[dict[str, Any]] | None = None, **changed: Any) -> hamu_jax.Unlearned:
    """A run as the driver returns it."""
    rows = [*map(row, range(10)), {"step": 10, "test forget/accuracy": 0.01}] if rows is None else rows
    ended = {"steps": 10, "status": "completed", "reason": "all 10 steps were taken", **changed}
    return hamu_jax.Unlearned({}, (), hamu_jax.History(rows), **ended)


CURVE = hamu_jax.TradeOff(np.linspace(0, 4, 9), np.linspace(-2, 1, 9), np.linspace(1, 4, 9), np.float32(4.0), np.float32(2.5))


def write(directory: Path, run: hamu_jax.Unlearned, **options: Any) -> Path:
    options = {"models": MODELS, "conclusion": "It was forgotten.", "settings": {"seed": 7, "command": "make"}, **options}
    return report.write(directory, run, title="Forgetting a class", watched=WATCHED, **options)


def pictures(directory: Path) -> set[str]:
    """The names of the PNG files, each of which is one."""
    for path in directory.glob("*.png"):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(data) > 8_000, "more than an empty canvas"
    return {path.stem for path in directory.glob("*.png")}


def test_everything_is_written(tmp_path: Path) -> None:
    run = result()
    written = write(tmp_path / "new", run, reference={"kept": 0.966}, curve=CURVE, learning_rate=0.1)
    assert written == tmp_path / "new" / "report.md"
    assert pictures(tmp_path / "new") == {"accuracy", "hardness", "promises", "trade_off"}
    assert hamu_jax.History.read(tmp_path / "new" / "history.jsonl").rows == run.history.rows

    text = written.read_text(encoding="utf-8")
    assert text.startswith("# Forgetting a class\n")
    assert "| model | test retain/accuracy | test forget/accuracy |\n|---|---|---|\n" in text
    for line in ("| full | 0.978 | 0.973 |", "| unlearned | 0.960 | 0.010 |", "| retrained | 0.966 | 0.000 |"):
        assert line in text
    for name in pictures(tmp_path / "new"):
        assert f"]({name}.png)" in text
    assert "- seed: `7`\n" in text
    assert text.endswith("## Conclusion\n\nIt was forgotten.\n")

    record = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert record["models"] == MODELS
    assert record["settings"] == {"seed": 7, "command": "make"}
    assert (record["steps"], record["status"], record["reason"]) == (10, "completed", "all 10 steps were taken")
    assert record["environment"] == report.environment()


def test_a_run_that_was_not_measured(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row(step).items() if not k.endswith(("_promised", "_measured"))} for step in range(4)]
    write(tmp_path, result(rows))
    assert pictures(tmp_path) == {"accuracy", "hardness"}
    assert "promises" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_that_met_nan(tmp_path: Path) -> None:
    """The halted step's norms are null while its cosine is 0; an earlier one promised, and could not be measured."""
    bad = {**row(5), "cosine": 0.0, **dict.fromkeys(["kappa", "kappa_2", "retain_norm", "forget_promised", "forget_measured"])}
    rows = [*map(row, range(4)), {**row(4), "forget_measured": None}, bad]
    models = {**MODELS, "unlearned": {"test retain/accuracy": math.nan, "test forget/accuracy": 0.5}}
    written = write(tmp_path, result(rows, status="nonfinite"), models=models)
    assert pictures(tmp_path) == {"accuracy", "hardness", "promises"}
    assert "| unlearned | n/a | 0.500 |" in written.read_text(encoding="utf-8")
    assert (
        json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["models"]["unlearned"]["test retain/accuracy"]
        is None
    )
    axes = report.plot_hardness(hamu_jax.History(rows)).axes[0]
    (kappa,) = (line for line in axes.lines if line.get_label() == r"$\kappa$")
    np.testing.assert_allclose(kappa.get_ydata(), [-0.8, -0.6, -0.4, -0.2, 0.0, np.nan], atol=1e-12)
    points = report.plot_promises(hamu_jax.History(rows)).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, [(0.1 * n, 0.11 * n) for n in range(1, 5)])


def test_a_run_that_took_no_step(tmp_path: Path) -> None:
    write(tmp_path, result([{"step": 0, "test retain/accuracy": 0.9, "test forget/accuracy": 0.0}], steps=0))
    assert pictures(tmp_path) == {"accuracy"}


def test_pictures_show_the_numbers() -> None:
    history = result().history
    axes = report.plot_evaluations(history, WATCHED, {"kept": 0.966}).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["forgotten"].get_xdata(), [0, 2, 4, 6, 8, 10])
    np.testing.assert_allclose(lines["forgotten"].get_ydata(), [0.9, 0.6, 0.3, 0.01, 0.01, 0.01], atol=1e-12)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[0.966, 0.966]]
    assert dashed[0].get_color() == lines["kept"].get_color()

    lines = {line.get_label(): line.get_ydata()[:10] for line in report.plot_hardness(history).axes[0].lines}
    np.testing.assert_allclose(lines[r"$\kappa$"], np.arange(10) * 0.2 - 0.8, atol=1e-12)
    np.testing.assert_allclose(lines[r"$\kappa_1$"], np.full(10, -0.5 / 6))
    np.testing.assert_allclose(lines[r"$\kappa_2$"], np.full(10, 4 / 6))

    axes = report.plot_trade_off(CURVE, 0.1).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), 0.1 * np.stack([CURVE.improvement, CURVE.retain_change], axis=1))
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words[1:] == ["costs the retain set nothing (up to 0.25)", "the retain loss must rise (feasible up to 0.4)"]


def test_promises_that_were_kept_in_part() -> None:
    """Where a loss fell, the axes are linear."""
    rows = [{"step": step, "forget_promised": 0.1, "forget_measured": 0.1 - 0.05 * step} for step in range(4)]
    axes = report.plot_promises(hamu_jax.History(rows)).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "linear"
    assert report.plot_promises(result().history).axes[0].get_xscale() == "log"


def test_a_curve_on_which_all_or_nothing_is_free() -> None:
    free = CURVE._replace(free=CURVE.largest)
    words = [text.get_text() for text in report.plot_trade_off(free).axes[0].get_legend().get_texts()]
    assert words == ["the least that it costs", "costs the retain set nothing (up to 4)"]
    nothing = jax.tree.map(np.zeros_like, CURVE)
    assert report.plot_trade_off(nothing).axes[0].lines[0].get_xdata().max() == 0


def test_more_columns_than_colours() -> None:
    history = hamu_jax.History([{"step": 0, **{f"s{i}/accuracy": 0.1 * i for i in range(9)}}])
    axes = report.plot_evaluations(history, {f"set {i}": f"s{i}/accuracy" for i in range(9)}, {}).axes[0]
    assert [line.get_label() for line in axes.lines] == [f"set {i}" for i in range(9)]


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


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        (report.plot_evaluations, (hamu_jax.History([row(0)]), WATCHED, {})),
        (report.plot_hardness, (hamu_jax.History([row(0)]),)),
        (report.plot_promises, (hamu_jax.History([row(0)]),)),
        (report.plot_trade_off, (CURVE,)),
    ],
)
def test_without_matplotlib(plot: Any, arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape('matplotlib.figure is not installed: pip install "hamu_jax[report]"')):
        plot(*arguments)


def test_what_is_there_is_given() -> None:
    assert require("json", "report") is json
