"""What is written as Markdown and read by a Markdown parser is the text that went in."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hamu_jax._base.markdown import code, escape, paragraphs, table

PARSER = MarkdownIt("gfm-like", {"linkify": False})
HOSTILE = [
    "a|b",
    "x\n| injected | row |",
    "<script>alert(1)</script>",
    "`code`",
    "![picture](http://example.invalid/x.png)",
    "[name](javascript:alert(1))",
    "**bold** _it_ __it__ ~~gone~~ $x$",
    "&lt;b&gt; &#60;",
    r"back\slash \| \\",
    "<https://example.invalid>",
]


def read(text: str) -> list[Any]:
    """The inline tokens, as (type, content), of every block."""
    return [[(one.type, one.content) for one in token.children or []] for token in PARSER.parse(text) if token.type == "inline"]


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_stay_text(text: str) -> None:
    cells = read(table((text, "b"), [(text, "1"), ("x", text)]))
    assert len(cells) == 6
    for cell in (cells[0], cells[2], cells[5]):
        assert {kind for kind, _ in cell} <= {"text", "text_special"}
        assert "".join(content for _, content in cell) == " ".join(text.split())


@given(st.text())
def test_any_text_stays_text(text: str) -> None:
    expected = " ".join(text.split()).replace("\0", "\ufffd")
    for tokens in (*read(table((f"a{text}", "b"), []))[:1], *read(paragraphs(f"{text}."))):
        assert {kind for kind, _ in tokens} <= {"text", "text_special"}
    cell = read(table((f"a{text}z", "b"), []))[0]
    assert "".join(content for _, content in cell) == " ".join(f"a{text}z".split()).replace("\0", "\ufffd")
    (span,) = read("- " + code(text))
    assert [(kind, content.strip()) for kind, content in span] == [("code_inline", expected)]


@pytest.mark.parametrize("opening", ["# a", "- a", "+ a", "1. a", "12) a", "> a", "=== a", "| a |", "<div>", "```", "---"])
def test_no_text_opens_a_block(opening: str) -> None:
    kinds = [token.type for token in PARSER.parse(paragraphs(opening))]
    assert kinds == ["paragraph_open", "inline", "paragraph_close"]


def test_paragraphs() -> None:
    assert paragraphs("**Yes.** At 5% [x]\nof y.\n\nMore.") == "**Yes.** At 5% \\[x\\] of y.\n\nMore."


def test_bare_addresses_are_no_links() -> None:
    assert escape("see http://a.invalid, HTTPS://b.invalid and www.c.invalid") == (
        r"see http\://a.invalid, HTTPS\://b.invalid and www\.c.invalid"
    )


def test_plain_names_are_not_changed() -> None:
    for name in ("test retain/accuracy", "params/layer_0/kernel", "forget_loss", "-0.5", "1.2e-07", "50%", "kappa (total)"):
        assert escape(name) == name


def test_a_table_of_numbers_and_of_nothing() -> None:
    assert table(("a", "b"), [(None, 3)]) == "| a | b |\n|---|---|\n| n/a | 3 |"
    assert table(("a",), []) == "| a |\n|---|"
    with pytest.raises(ValueError, match=re.escape("rows[1]: got 1 cells, expected 2 as in header")):
        table(("a", "b"), [("1", "2"), ("3",)])
