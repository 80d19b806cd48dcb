"""Runs the code of pages that show pictures, and keeps these in `docs/images`.

Call it as `python docs/pictures.py [tutorial] [hardness]` when those pages, or what they show, have changed.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

PAGES = ("tutorial", "hardness")  # each writes its pictures to a directory PAGE-out


def make(page: str) -> None:
    """Runs one page, and keeps what it drew as `PAGE-NAME.png`."""
    docs, home = Path(__file__).resolve().parent, Path.cwd()
    document = Sybil(parsers=[PythonCodeBlockParser()], path=str(docs)).parse(docs / f"{page}.md")
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            for example in document.examples():
                example.evaluate()
            for picture in Path(f"{page}-out").glob("*.png"):
                shutil.copy(picture, docs / "images" / f"{page}-{picture.name}")
            for text in Path(f"{page}-out").glob("report.md"):
                sys.stdout.write(text.read_text(encoding="utf-8"))
        finally:
            os.chdir(home)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or PAGES:
        make(wanted)
