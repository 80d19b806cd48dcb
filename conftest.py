"""Runs the code blocks of the Markdown documents as tests, each document in an empty directory."""

import os
import tempfile
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


def _enter(namespace: dict[str, Any]) -> None:
    """What a document writes goes to a directory of its own."""
    namespace["_home"], namespace["_place"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_place"].name)


def _leave(namespace: dict[str, Any]) -> None:
    """And away with it."""
    os.chdir(namespace["_home"])
    namespace["_place"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["*.md"], excludes=["docs/_build/*"], setup=_enter, teardown=_leave
).pytest()
