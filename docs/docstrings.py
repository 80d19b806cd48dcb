"""Makes our docstrings, which are written to be read in an editor, fit for Sphinx.

In a docstring `name` is code, an indented block is a formula, and a module's text is Markdown; a signature says the shapes as
the source does.
"""

import ast
import enum
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from docutils.nodes import Element
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import hamu_jax

BEFORE_NAPOLEON = 400  # which has 500
_SECTION = re.compile(r"^(Args|Attributes|Example|Raises|Returns):$")
_CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")
_ERRORS = re.compile(r"^(\s+)(\w+Error(?:, \w+Error)+): (.*)$")
_MODULE = re.compile(r"^<!-- docstring of (\S+) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", docstring, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-signature", signature)
    app.connect("missing-reference", public_name)
    app.connect("source-read", module_text)
    return {"parallel_read_safe": True}


def docstring(*given: Any) -> None:
    """Rewrites a docstring's lines, the last argument, in place: code, formulas, tables, and exceptions one by one."""
    lines = given[-1]
    lines[:] = _exceptions(_tables(_formulas(_CODE.sub(_literal, "\n".join(lines)).split("\n"))))


def signature(app: Sphinx, what: str, name: str, thing: Any, *found: Any) -> Any:  # noqa: ARG001
    """The arguments as the source has them: `Float[Array, "blocks"]`, `Blocks`, not what these stand for."""
    if inspect.isclass(thing):
        return ("" if issubclass(thing, enum.Enum) else f"({', '.join(_fields(thing))})"), ""
    node = _definition(thing)
    if not isinstance(node, ast.FunctionDef):
        return None
    if what == "method" and node.args.args[:1]:
        node.args.args = node.args.args[1:]  # self
    return f"({_source(node.args)})", _source(node.returns) if node.returns else ""


def public_name(app: Sphinx, env: BuildEnvironment, node: Element, contnode: Element) -> Element | None:
    """Links a class that a signature names without its module."""
    name = node.get("reftarget", "").split(".")[-1]
    if node.get("refdomain") != "py" or name not in hamu_jax.__all__:
        return None
    return env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"hamu_jax.{name}", node, contnode)


def module_text(app: Sphinx, name: str, source: list[str]) -> None:  # noqa: ARG001
    """Puts a module's docstring, Markdown, in the place of `<!-- docstring of MODULE -->`."""
    source[0] = _MODULE.sub(lambda found: inspect.getdoc(importlib.import_module(found[1])) or "", source[0])


def _literal(found: re.Match[str]) -> str:
    """Code in a line, perhaps broken over two."""
    return "``" + re.sub(r"\s*\n\s*", " ", found[1]) + "``"


def _formulas(lines: Iterable[str]) -> Iterator[str]:
    """Marks the indented blocks of the text before the first section as literal."""
    in_text, last = True, ""
    for line in lines:
        in_text = in_text and not _SECTION.match(line)
        if in_text and line.startswith("    ") and not last:
            yield from (".. code-block:: text", "")
        yield line
        last = line


def _tables(lines: Iterable[str]) -> Iterator[str]:
    """A Markdown table as Sphinx has it."""
    inside = False
    for line in lines:
        if not line.startswith("|"):
            inside = False
            yield line
            continue
        if not inside:
            yield from (".. list-table::", "   :header-rows: 1", "")
        inside = True
        if not line.startswith("|---"):
            first, *others = (cell.strip() for cell in line.strip("|").split(" | "))
            yield from (f"   * - {first}", *(f"     - {cell}" for cell in others))


def _exceptions(lines: Iterable[str]) -> Iterator[str]:
    """`TypeError, ValueError: why` as an entry each."""
    for line in lines:
        found = _ERRORS.match(line)
        yield from [line] if found is None else (f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))


def _fields(thing: type) -> Iterator[str]:
    """The fields of a named tuple or dataclass, inherited ones first."""
    for base in reversed(thing.__mro__):
        node = _definition(base) if base.__module__.startswith("hamu_jax") else None
        for line in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(line, ast.AnnAssign):
                plain = line.value is None or isinstance(line.value, ast.Constant | ast.Tuple)
                default = "" if line.value is None else f" = {_source(line.value) if plain else '...'}"
                yield f"{_source(line.target)}: {_source(line.annotation)}{default}"


def _definition(thing: Any) -> ast.stmt | None:
    """The definition of a function or class, or None for what has none in Python."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body[0]
    except (OSError, TypeError):
        return None


def _source(node: ast.AST) -> str:
    """Source text, with strings as we write them."""
    return re.sub(r"'\s*([^'\"]*)'", r'"\1"', ast.unparse(node))
