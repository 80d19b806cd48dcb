"""Figures as text: SVG for a light and for a dark page."""

import base64
import io
from typing import Any

from hamu_jax._base.optional import require

# What is drawn in these colours on white is drawn in those on a dark page, where the first would be too dim to see.
_DARK = {
    "#ffffff": "#17191c",
    "#000000": "#e4e6ea",
    "#0072b2": "#56b4e9",
    "#d55e00": "#ff9a4d",
    "#767676": "#a5a8ad",
    "#b0b0b0": "#7d8187",
}


def light_and_dark(figure: Any) -> tuple[str, str]:
    """The figure as data URIs, for a light and for a dark page."""
    svg = _svg(figure)
    dark = svg
    for color, other in _DARK.items():
        dark = dark.replace(color, other)
    # Matplotlib leaves black, which is SVG's own default, unsaid where it fills letters.
    dark = dark.replace("<svg ", f'<svg fill="{_DARK["#000000"]}" ', 1)
    return _uri(svg), _uri(dark)


def width(figure: Any) -> int:
    """How wide the figure is in a browser, in CSS pixels."""
    return round(96 * figure.get_figwidth())


def _svg(figure: Any) -> str:
    """The figure as SVG: the same text for the same figure, letters as paths."""
    buffer = io.StringIO()
    with require("matplotlib", "report").rc_context({"svg.hashsalt": "hamu_jax", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _uri(svg: str) -> str:
    """The text as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
