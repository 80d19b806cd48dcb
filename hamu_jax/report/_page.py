"""One HTML file that needs nothing else: pictures inside, no script, everything that is text escaped."""

import dataclasses
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from hamu_jax.report._numbers import show
from hamu_jax.report._pictures import light_and_dark, width

Tone: TypeAlias = Literal["good", "bad", "neutral"]

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c1e21; --dim: #5c6066; --line: #d9dce0; --shade: #f5f6f7;
  --good: #1a7f37; --bad: #b3261e; --neutral: #4c5a67; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --ink: #e4e6ea; --dim: #a5a8ad; --line: #383c42;
  --shade: #202327; --good: #57c878; --bad: #ff8a80; --neutral: #a9b8c6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: 0 0 .75rem; max-width: 46rem; }
.verdict { border-left: .35rem solid var(--tone); background: var(--shade); padding: .9rem 1rem .3rem; border-radius: .25rem; }
.verdict .headline { color: var(--tone); font-size: 1.3rem; font-weight: 650; line-height: 1.3; }
.good { --tone: var(--good); } .bad { --tone: var(--bad); } .neutral { --tone: var(--neutral); }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  overflow-wrap: normal; vertical-align: top; }
th { color: var(--dim); font-weight: 600; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { max-width: 28rem; overflow-wrap: break-word; }
td.text { min-width: 15rem; }
th.number { text-align: right; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem 2rem; }
figure { margin: 0; max-width: 100%; flex: 0 1 auto; }
figcaption { color: var(--dim); font-size: .88rem; max-width: 28rem; }
figure .scroll { margin: 0 0 .3rem; }
figure img { display: block; height: auto; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem; font-size: .9rem; margin: 0; }
dt { color: var(--dim); } dd { margin: 0; font-family: ui-monospace, monospace; font-size: .85rem; }
""".strip()
# Nothing is fetched and nothing runs, whatever a text may contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LONG = 40  # characters from which on a text needs some width to be read
_HEADLINE = re.compile(r"\*\*(?P<bold>.+?)\*\*\s*|(?P<sentence>.+?[.!?])(?:\s+|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page. Every name, text and cell stays text; in `text`, `**bold**` is kept.

    Attributes:
      title: its heading.
      text: paragraphs, separated by blank lines.
      table: the header and the rows of a table. Floats are written with three decimals, None as `n/a`.
      figures: matplotlib figures by their captions.
      entries: names and values, one line each, as of how a number was made.
    """

    title: str
    text: str = ""
    table: tuple[Sequence[Any], Sequence[Sequence[Any]]] | None = None
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    entries: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def page(title: str, verdict: str, sections: Sequence[Section], *, tone: Tone = "neutral") -> str:
    """A report as one HTML file: the verdict first, then the sections.

    The file needs no other: pictures are inside, once for a light and once for a dark screen, and a policy in it forbids
    scripts and everything from elsewhere. It is readable on a screen of 360 pixels; wide tables and pictures scroll.

    Args:
      title: the title. As all texts, names and cells it stays text, whatever it contains.
      verdict: what the reader must know first, as of `conclude`: its first sentence, or what is bold at its beginning, is the
        headline.
      sections: in their order.
      tone: whether the verdict is good or bad news: the headline's colour.

    Returns:
      The HTML text, for `write_whole`.

    Raises:
      ValueError: for another tone, or a row that has more or fewer cells than its header.
      ImportError: naming the extra, if there are figures and matplotlib is missing.

    Example:
      >>> text = page("A <b>", "It was forgotten. At no cost.", [Section("Losses", table=(("set", "loss"), [("forget", 2.5)]))])
      >>> "A &lt;b&gt;" in text, "<td>forget</td>" in text, "<script" in text
      (True, True, False)
    """
    if tone not in get_args(Tone):
        raise ValueError(f"tone: got {tone!r}, expected one of {', '.join(map(repr, get_args(Tone)))}")
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        "</head>",
        "<body>",
        f"<h1>{html.escape(title)}</h1>",
        *_verdict(verdict, tone),
        *(line for section in sections for line in _section(section)),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _verdict(verdict: str, tone: Tone) -> Iterator[str]:
    """The box at the top."""
    match = _HEADLINE.match(verdict.strip())
    headline = verdict if match is None else match["bold"] or match["sentence"]
    yield f'<div class="verdict {tone}">'
    yield f'<p class="headline">{html.escape(headline)}</p>'
    yield from _paragraphs("" if match is None else verdict.strip()[match.end() :])
    yield "</div>"


def _section(section: Section) -> Iterator[str]:
    """A section with what it has."""
    yield f"<section>\n<h2>{html.escape(section.title)}</h2>"
    yield from _paragraphs(section.text)
    if section.table is not None:
        yield from _table(section.title, *section.table)
    if section.figures:
        yield '<div class="figures">'
        for caption, figure in section.figures.items():
            yield from _figure(caption, figure)
        yield "</div>"
    if section.entries:
        entries = (
            f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>" for name, value in section.entries.items()
        )
        yield "\n".join(["<dl>", *entries, "</dl>"])
    yield "</section>"


def _paragraphs(text: str) -> Iterator[str]:
    """The text as paragraphs in which bold is kept."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part:
            yield "<p>" + re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(part), flags=re.DOTALL) + "</p>"


def _table(title: str, header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """A table that scrolls where it is too wide; columns of numbers stand on the right."""
    for place, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"rows[{place}] of {title!r}: got {len(row)} cells, expected {len(header)} as in the header")
    cells = [[show(cell) for cell in row] for row in rows]
    kinds = [_kind(column) for column in zip(*cells, strict=True)] or [""] * len(header)
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(title)}">\n<table>'
    yield _row("th", header, kinds)
    for row in cells:
        yield _row("td", row, kinds)
    yield "</table>\n</div>"


def _row(tag: str, cells: Sequence[Any], kinds: Sequence[str]) -> str:
    """A row of a table."""
    shown = ("n/a" if cell is None else html.escape(str(cell)) for cell in cells)
    return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(shown, kinds, strict=True)) + "</tr>"


def _kind(column: Sequence[str | None]) -> str:
    """The class of a column: numbers, long texts, or words."""
    if all(map(_is_number, column)):
        return ' class="number"'
    return ' class="text"' if any(len(cell or "") > _LONG for cell in column) else ""


def _is_number(cell: str | None) -> bool:
    """Whether a cell can stand in a column of numbers."""
    return cell is None or re.fullmatch(r"[-+]?(\d[\d,.]*(e[-+]?\d+)?%?|inf)", cell) is not None


def _figure(caption: str, figure: Any) -> Iterator[str]:
    """A picture, for both kinds of screens; on a narrow one it shrinks a little, then scrolls."""
    light, dark = light_and_dark(figure)
    natural = width(figure)
    style = f"width: {natural}px; max-width: 100%; min-width: {round(0.7 * natural)}px"
    text = html.escape(caption)
    yield '<figure>\n<div class="scroll" tabindex="0">\n<picture>'
    yield f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    yield f'<img src="{light}" alt="{text}" style="{style}">'
    yield f"</picture>\n</div>\n<figcaption>{text}</figcaption>\n</figure>"
