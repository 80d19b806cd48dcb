"""The page: one file, verdict first, and whatever a text contains stays text."""

import base64
import html.parser
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import hamu_jax
from hamu_jax import report
from hamu_jax._forget.outcome import Change, Forgotten

HOSTILE = "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)> \"'>& **b** $x$ \x00 \ud800"
VOID = {"meta", "img", "source"}


class Reader(html.parser.HTMLParser):
    """What a browser would see: elements with attributes, and the text inside each kind of element."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text[tag][-1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def figure(label: str = "x") -> Any:
    return report.plot_path(hamu_jax.History([{"step": 0, "forget_loss": 1.0, label: 2.0}]))


def check_that_it_is_harmless(reader: Reader) -> None:
    """No script, no handler, nothing from elsewhere."""
    assert not {"script", "iframe", "object", "link", "form", "a", "base"} & {tag for tag, _ in reader.elements}
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
    (policy,) = (a["content"] for tag, a in reader.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    section = report.Section(HOSTILE, HOSTILE, ((HOSTILE, "n"), [(HOSTILE, 1)]), {HOSTILE: figure()}, {HOSTILE: HOSTILE})
    text = report.page(HOSTILE, HOSTILE, [section])
    reader = read(text)
    check_that_it_is_harmless(reader)
    for tag in ("title", "h1", "h2", "th", "td", "figcaption", "dt", "dd"):
        assert HOSTILE in reader.text[tag]
    assert reader.text["strong"] == ["b"]  # all that is markup in a text
    (image,) = (attributes for tag, attributes in reader.elements if tag == "img")
    assert image["alt"] == HOSTILE
    report.write_whole(tmp_path / "page.html", text)
    assert r"\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_verdict_comes_first() -> None:
    for verdict, headline in (
        ("**It was forgotten.** The price: none.", "It was forgotten."),
        ("The model was damaged. It was forgotten.", "The model was damaged."),
        ("no sentence", "no sentence"),
        ("", ""),
    ):
        reader = read(report.page("t", verdict, [report.Section("s", "later")], tone="bad"))
        assert reader.text["p"][0] == headline
        body = [tag for tag, _ in reader.elements]
        assert body.index("h1") < body.index("p") < body.index("h2")
        assert ("div", {"class": "verdict bad"}) in reader.elements
    words = read(report.page("t", "**Yes.** One **two**.\n\nThree.", [])).text
    assert words["p"] == ["Yes.", "One two.", "Three."]
    assert words["strong"] == ["two"]


def test_numbers_stand_on_the_right_and_long_texts_have_room() -> None:
    long = "a question that is far longer than any name of a set"
    rows = [
        ("forget", 0.5, 3, long, None),
        ("retain", 6e18, 4, "x", 1.0),
        ("test", math.nan, np.int64(5), "", np.float32(0.25)),
    ]
    reader = read(report.page("t", "v.", [report.Section("s", table=(("set", "loss", "n", "text", "AUC"), rows))]))
    cells = [reader.text["td"][5 * row : 5 * row + 5] for row in range(3)]
    assert [row[1] for row in cells] == ["0.500", "6e+18", "n/a"]
    assert [row[2] for row in cells] == ["3", "4", "5"]
    assert [row[4] for row in cells] == ["n/a", "1.000", "0.250"]
    kinds = [attributes.get("class") for tag, attributes in reader.elements if tag == "td"][:5]
    assert kinds == [None, "number", "number", "text", "number"]


def test_pictures_are_inside_for_both_kinds_of_screens() -> None:
    reader = read(report.page("t", "v.", [report.Section("s", figures={"A path.": figure()})]))
    (light,) = (attributes["src"] or "" for tag, attributes in reader.elements if tag == "img")
    (source,) = (attributes for tag, attributes in reader.elements if tag == "source")
    assert source["media"] == "(prefers-color-scheme: dark)"
    for uri, background in ((light, "#ffffff"), (source["srcset"] or "", "#17191c")):
        svg = base64.b64decode(uri.split(",")[1]).decode()
        assert svg.count("<svg ") == 1
        assert background in svg


def test_the_same_figure_is_the_same_text() -> None:
    assert report.page("t", "v.", [report.Section("s", figures={"c": figure()})]) == report.page(
        "t", "v.", [report.Section("s", figures={"c": figure()})]
    )


def test_errors() -> None:
    with pytest.raises(ValueError, match=re.escape("tone: got 'green', expected one of 'good', 'bad', 'neutral'")):
        report.page("t", "v", [], tone="green")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("rows[0] of 's': got 1 cells, expected 2 as in the header")):
        report.page("t", "v", [report.Section("s", table=(("a", "b"), [("1",)]))])


def run(steps: int = 12) -> hamu_jax.History:
    """The columns of a run towards a level; every fifth step is refused, and one error is not finite."""
    rows: list[dict[str, Any]] = []
    for step in range(steps):
        evaluated = {f"{name}/loss": 0.1 + 0.2 * step for name in ("forget", "retain", "held_out", "unseen")}
        rows.append(
            {
                "step": step,
                "forget_loss": 0.1 + 0.2 * step,
                "retain_loss": 0.2,
                "step_scale": 0.1,
                "step_accepted": step % 5 != 4,
                "trust_error": None if step == 3 else 2.0 if step % 5 == 4 else 0.1,
                **dict.fromkeys(("kappa", "kappa_1", "kappa_2", "retain_norm", "forget_norm"), 1.0),
                **(evaluated if step % 3 == 0 else {}),
            }
        )
    return hamu_jax.History(rows)


LOSSES = {"forget": np.geomspace(1e-4, 1, 50), "unseen": np.linspace(1, 3, 40), "retain": np.geomspace(1e-5, 1, 60)}


def loss(params: Any, batch: Any) -> Any:
    return (batch["x"] - params) ** 2


SETS = {
    "forget": {"x": np.array([1.0, 2.0])},
    "unseen": {"x": np.array([3.0])},
    "retain": {"x": np.array([0.0, 5.0, 1.0, 0.2])},
}


def outcome(history: hamu_jax.History, **changed: Any) -> Any:
    """What `forget` returns, of a model that went from 0 to 1."""
    run = hamu_jax.Unlearned(np.float64(1.0), (), history, len(history.rows), "converged", "nothing is left", 3)
    change = Change(1.0, 2.0)
    fields = {
        "params": run.params,
        "status": "reached",
        "verdict": "Forgotten: at the level. At no cost.",
        "level": (2.0,),
        "width": (0.2,),
        "level_error": 0.3,
        "losses": {"forget": change, "retain": Change(1.0, math.nan)},
        "request_losses": (),
        "worse_on": ("unseen",),
        "perhaps_worse_on": (),
        "shared_rows": 0,
        "auc": change,
        "auc_interval": (0.4, 0.6),
        "auc_before_interval": (0.9, 1.0),
        "held_out_given": True,
        "best_step": 3,
        "run": run,
        "problem": None,
    }
    return Forgotten(**{**fields, **changed})


def write(directory: Path, result: Any, sets: Any = SETS, **options: Any) -> Reader:
    options = {"title": HOSTILE, "settings": {HOSTILE: HOSTILE}, "loss": loss, **options}
    written = report.write_outcome(directory, result, params=np.float64(0.0), sets=sets, **options)
    assert written == directory / "report.html"
    return read(written.read_text(encoding="utf-8"))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_report_of_forget(tmp_path: Path) -> None:
    reader = write(tmp_path, outcome(run(), verdict=f"{HOSTILE}. More."))
    check_that_it_is_harmless(reader)
    assert reader.text["h2"] == ["Before and after", "Losses", "Steps", "Who paid most", "How it was made"]
    assert len(reader.text["figcaption"]) == 4
    assert {path.stem for path in tmp_path.glob("*.png")} == {"losses", "path", "trust_region", "hardness"}
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert record["before and after"]["mean loss, forget"] == [1.0, 2.0]
    assert record["before and after"]["mean loss, retain"] == [1.0, None]
    assert (record["level_error"], record["worse_on"], record["auc_interval"]) == (0.3, ["unseen"], [0.4, 0.6])
    # (x - 1)^2 - x^2 = 1 - 2x is positive for x = 0 and 0.2 alone.
    np.testing.assert_allclose(record["most threatened"], [[0, 0, 1, 1], [3, 0.04, 0.64, 0.6]], rtol=1e-6)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    kinds = {child.type for token in MarkdownIt("commonmark").parse(text) for child in (token, *(token.children or []))}
    assert not {kind for kind in kinds if "html" in kind or "link" in kind}
    assert "| mean loss, retain | 1.000 | n/a |" in text
    assert "| 3 | 0.040 | 0.640 | 0.600 |" in text
    assert hamu_jax.History.read(tmp_path / "history.jsonl").rows == run().rows


def test_padding_has_no_row(tmp_path: Path) -> None:
    class Padded:
        def __call__(self, params: Any, batch: Any) -> Any:
            return loss(params, batch)

        def weights(self, batch: Any) -> Any:
            return (batch["x"] != 5.0).astype(np.float32)

    write(tmp_path, outcome(run()), loss=Padded())
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [row[0] for row in record["most threatened"]] == [0, 3]


@pytest.mark.parametrize(
    ("status", "tone"),
    [("reached", "good"), ("reached_at_higher_cost", "neutral"), ("not_reached", "bad"), ("nonfinite", "bad")],
)
def test_a_report_of_which_little_is_known(status: str, tone: str, tmp_path: Path) -> None:
    history = hamu_jax.History([{"step": 0, "forget_loss": None}])
    reader = write(tmp_path, outcome(history, status=status, auc=None, level=(1.0, 2.0), width=(0.1, 0.2)), sets={})
    assert reader.text["h2"] == ["Before and after", "Losses", "How it was made"]
    assert len(reader.text["figcaption"]) == 1
    assert ("div", {"class": f"verdict {tone}"}) in reader.elements
    assert reader.text["p"][0] == "Forgotten: at the level."


def test_the_path() -> None:
    forget, retain = report.plot_path(run(), 2.0, 0.5).axes
    (band,) = (patch for patch in forget.patches if patch.get_label() == "level 2")
    assert (band.get_y(), band.get_height()) == (1.5, 1.0)
    lines = {line.get_label(): line for line in forget.lines}
    np.testing.assert_allclose(lines["forget set"].get_xydata(), [(s, 0.1 + 0.2 * s) for s in (0, 3, 6, 9)])
    assert [line.get_label() for line in retain.lines] == ["a batch", "retain set", "held out"]
    bands = report.plot_path(run(), (1.0, 3.0)).axes[0].patches
    np.testing.assert_allclose([(band.get_y(), band.get_height()) for band in bands], [(0.9, 0.2), (2.7, 0.6)])
    assert not report.plot_path(run()).axes[0].patches
    for axes in report.plot_path(run(), returned=6).axes:
        assert list(axes.lines[-1].get_xdata()) == [6, 6]
    steep = hamu_jax.History([{"step": s, "forget/loss": 1e-3 * 10**s} for s in range(5)])
    assert [axes.get_yscale() for axes in report.plot_path(steep).axes] == ["log", "linear"]
    for level, width, message in ((math.nan, None, "level[0]: got nan"), ((1.0, 2.0), 0.1, "width: got 1 numbers, expected 2")):
        with pytest.raises(ValueError, match=re.escape(message)):
            report.plot_path(run(), level, width)


def test_the_histograms() -> None:
    """Shares of each set; what is not finite is counted in the legend."""
    after = {"forget": [0.5, 0.5, math.nan, math.inf], "other": []}
    figure = report.plot_histograms(LOSSES, after)
    for axes, sets in zip(figure.axes, (LOSSES, after), strict=True):
        assert len(axes.get_legend().texts) == len(sets)
    assert figure.axes[1].get_legend().texts[0].get_text() == "forget (2 not finite)"
    assert figure.axes[0].get_xscale() == "log"
    plain = report.plot_histograms({"forget": [1.0, 2.0]}, {"forget": [2.0, 2.0]})
    assert plain.axes[0].get_xscale() == "linear"
    shares = [max(patch.get_path().vertices[:, 1].max() for patch in axes.patches) for axes in plain.axes]
    assert shares == [0.5, 1.0]
    report.plot_histograms({}, {})
    report.plot_histograms({"forget": [0.0]}, {"forget": [0.0]})
    with pytest.raises(ValueError, match=re.escape("after['x']: got shape (1, 1), expected [n], one loss per example")):
        report.plot_histograms({}, {"x": [[1.0]]})


def test_the_trust_region() -> None:
    above, below = report.plot_trust_region(run()).axes
    assert [text.get_text() for text in above.get_legend().texts] == ["taken: 10", "refused: 2"]
    taken, refused = (line.get_xdata() for line in below.lines[:2])
    assert list(refused) == [4, 9]
    assert list(taken) == [0, 1, 2, 5, 6, 7, 8, 10, 11]  # the error of step 3 is not known
    low, high = below.get_ylim()
    assert low < 0.1
    assert high > 2
    with pytest.raises(KeyError, match="step_scale"):
        report.plot_trust_region(hamu_jax.History([{"step": 0}]))


@pytest.mark.parametrize("change", [1e-12, math.nan])
def test_trust_regions_of_few_numbers(change: float) -> None:
    rows = [{"step": 0, "step_scale": change, "step_accepted": True, "trust_error": change}]
    assert report.page("t", "v", [report.Section("s", figures={"c": report.plot_trust_region(hamu_jax.History(rows))})])
