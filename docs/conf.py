"""How the documentation is built: `make docs`."""

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for docstrings.py
os.environ["PYTHONPATH"] = str(HERE.parent)  # notebooks run the code that lies here, in a process of their own

project = "hamu_jax"
author = "the authors of hamu_jax"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb", "docstrings"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# Pages are Markdown that a code host shows as well; headings have the anchors that a code host gives them.
myst_heading_anchors = 3

# A notebook that raises breaks the build.
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 1200
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

html_theme = "furo"
html_title = "hamu_jax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Signatures are taken from the source, shapes and all: see docstrings.py.
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has them

# Every reference must lead somewhere, but for types of other projects (without internet there is no intersphinx) and the
# short names for types that api/index.md explains: they are read, not followed.
nitpicky = True
nitpick_ignore_regex = [(r"py:(class|data|obj)", r"(?!hamu_jax\.).*")]

# Pages under results/ that show a file of experiments/results, by that file: a link to the file, which a code host follows,
# becomes a link to the page.
RESULTS = {
    path.read_text(encoding="utf-8").split()[1].removeprefix("../../"): path.name
    for path in (HERE / "results").glob("*.md")
    if path.read_text(encoding="utf-8").startswith("```{include}")
}


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _links)


def _links(app: Any, name: str, source: list[str]) -> None:  # noqa: ARG001
    """Turns links to result files into links to their pages."""
    up, folder = ("../../", "") if name.startswith("results/") else ("../", "results/")
    for file, page in RESULTS.items():
        source[0] = source[0].replace(f"]({up}{file})", f"]({folder}{page})")
