"""Markdown in which names, titles and texts stay text, whatever they contain."""

import re
from collections.abc import Sequence
from typing import Any

# An underscore inside a word marks nothing, and names have many. A colon or dot that makes a bare address a link is escaped.
_MARKUP = re.compile(r"[\\`*\[\]<>|~$]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])|(?<=http):(?=//)|(?<=https):(?=//)|(?<=www)\.", re.I)
_OPENS_A_BLOCK = re.compile(r"([-+=#%(])|(\d+)([.)])")


def escape(text: Any) -> str:
    """The text on one line, for the inside of a line: none of its characters is markup."""
    return _MARKUP.sub(lambda match: "\\" + match[0], " ".join(str(text).split()))


def paragraphs(text: str) -> str:
    """The text as paragraphs: blank lines separate them, `**bold**` is kept, and nothing else is markup."""
    blocks = (escape(block).replace(r"\*\*", "**") for block in re.split(r"\n\s*\n", text))
    return "\n\n".join(_OPENS_A_BLOCK.sub(r"\2\\\1\3", x, count=1) if _OPENS_A_BLOCK.match(x) else x for x in blocks)


def code(value: Any) -> str:
    """The value as a code span on one line, whatever backticks it contains."""
    text = " ".join(str(value).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if not text or text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    r"""A Markdown table whose cells are text.

    Args:
      header: the names of the columns.
      rows: the cells of each row. None is written as `n/a`, everything else as `str` has it, on one line. Pipes, `<`,
        backticks, brackets and the other characters that are markup in Markdown are escaped.

    Returns:
      The table, without a newline at its end.

    Raises:
      ValueError: for a row that has more or fewer cells than the header.

    Example:
      >>> print(table(("model", "accuracy"), [("full", "0.98"), ("a|b", None)]))
      | model | accuracy |
      |---|---|
      | full | 0.98 |
      | a\|b | n/a |
    """
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"rows[{index}]: got {len(row)} cells, expected {len(header)} as in header")
    return "\n".join([_line(header), "|---" * len(header) + "|", *map(_line, rows)])


def _line(cells: Sequence[Any]) -> str:
    """One row of a table."""
    return "| " + " | ".join("n/a" if cell is None else escape(cell) for cell in cells) + " |"
