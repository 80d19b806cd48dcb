"""The report: every file is there and readable, whatever the run went through, and the words fit the numbers."""

import html
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from markdown_it import MarkdownIt

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


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_record_is_json_whatever_is_in_it(tmp_path: Path) -> None:
    """Numbers that are not finite are null wherever they are; what JSON has no word for is text."""
    settings = {"radius": math.inf, "grid": [math.nan, 1.0], "nested": {"x": np.float32(np.nan)}, "out": Path("a"), "f": len}
    models = {**MODELS, "unlearned": {"test retain/accuracy": np.float32(np.nan), "test forget/accuracy": jax.numpy.ones(())}}
    write(str(tmp_path), result(), settings=settings, models=models)  # type: ignore[arg-type]
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["settings"] == {
        "radius": None, "grid": [None, 1.0], "nested": {"x": None}, "out": "a", "f": "<built-in function len>"
    }  # fmt: skip
    assert record["models"]["unlearned"] == {"test retain/accuracy": None, "test forget/accuracy": 1.0}


HOSTILE = "a|b\n| c | <script>alert(1)</script> `x` [y](javascript:z) $q$ **w** _u_"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    columns = {HOSTILE: 0.5, "x": 1.0}
    history = hamu_jax.History([{**row(step), HOSTILE: 0.1 * step} for step in range(3)])
    run = hamu_jax.Unlearned({}, (), history, 3, "completed", HOSTILE)
    report.write(
        tmp_path,
        run,
        title=HOSTILE,
        models={HOSTILE: columns, "b": columns},
        conclusion=f"# {HOSTILE}",
        settings={HOSTILE: HOSTILE},
        watched={HOSTILE: HOSTILE, "_hidden": "test retain/accuracy"},
        reference={HOSTILE: 0.3},
    )
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse((tmp_path / "report.md").read_text(encoding="utf-8"))
    assert {token.type for token in tokens} & {"html_block", "fence", "code_block", "blockquote_open"} == set()
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h2"]
    assert sum(token.type == "tr_open" for token in tokens) == 3
    kinds = {one.type for token in tokens for one in token.children or []}
    assert kinds <= {"text", "text_special", "image", "code_inline", "strong_open", "strong_close"}
    text = " ".join(HOSTILE.split())
    words = ["".join(one.content for one in token.children) for token in tokens if token.children]
    assert words[0] == text
    assert words[1:3] == ["model", text]
    assert f"{text}: {text}" in words
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert html.escape(HOSTILE) in page
    figure = report.plot_evaluations(history, {HOSTILE: HOSTILE, "_hidden": "test retain/accuracy"}, {})
    assert len(figure.axes[0].get_legend().texts) == 2


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "models: got none, expected at least the unlearned one"),
        ({"a": {"x": 1.0}, "b": {}}, "models['b']: got no column 'x', expected those of models['a']"),
        ({"a": {}, "b": {"x": 1.0}}, "models['a']: got no column 'x', expected those of models['b']"),
    ],
)
def test_models_that_make_no_table(models: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        write(tmp_path / "new", result(), models=models)
    assert not (tmp_path / "new").exists()


def test_numbers_of_any_size(tmp_path: Path) -> None:
    models = {"a": {"x": 6e18, "y": 1.25e-6, "z": -0.25, "zero": 0.0}}
    assert "| a | 6e+18 | 1.25e-06 | -0.250 | 0.000 |" in write(tmp_path, result(), models=models).read_text(encoding="utf-8")


def test_losses_are_drawn_as_losses() -> None:
    history = hamu_jax.History([{"step": 0, "test/loss": 0.5}, {"step": 1, "test/loss": 7.0}])
    axes = report.plot_evaluations(history, {"kept": "test/loss"}, {}).axes[0]
    assert axes.get_ylabel() == "loss"
    assert axes.get_ylim()[1] >= 7


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
