"""Runs the code blocks of the Markdown documents as tests, each document in an empty directory, and reads what they print."""

import contextlib
import io
import os
import re
import tempfile
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
ACROSS_MACHINES = 0.1  # of a number: those of trained networks differ by rounding that has grown


def _run(example: Example) -> None:
    """Runs a block of Python and keeps what it prints for the block of text after it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        PythonEvaluator()(example)
    example.namespace["_printed"] = printed.getvalue(), example.end


def _compare(example: Example) -> None:
    """A block of text right after a block of Python is what that printed: the same words, and numbers that are near."""
    printed, end = example.namespace.get("_printed", ("", 0))
    if example.document.text[end : example.start].strip():
        return  # text of its own
    told, found = (" ".join(text.split()) for text in (example.parsed, printed))
    assert NUMBER.sub("#", found) == NUMBER.sub("#", told), f"{example.path}, line {example.line}: it prints {found!r}"
    for said, got in zip(NUMBER.findall(told), NUMBER.findall(found), strict=True):
        unit = 10.0 ** -len(said.partition(".")[2])  # of the last digit
        near = pytest.approx(float(said), rel=ACROSS_MACHINES, abs=1.01 * unit)
        assert float(got) == near, f"{example.path}, line {example.line}: it prints {found!r}"


def _enter(namespace: dict[str, Any]) -> None:
    """What a document writes goes to a directory of its own."""
    namespace["_home"], namespace["_place"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_place"].name)


def _leave(namespace: dict[str, Any]) -> None:
    """And away with it."""
    os.chdir(namespace["_home"])
    namespace["_place"].cleanup()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", _run), CodeBlockParser("text", _compare)],
    patterns=["*.md"],
    excludes=["docs/_build/*"],
    setup=_enter,
    teardown=_leave,
).pytest()
