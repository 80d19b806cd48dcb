"""Who may import whom: the table in CONTRIBUTING.md, from top to bottom."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hamu_jax"


def rows() -> list[list[str]]:
    """The modules of each row of the table."""
    house = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## How the house is built")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in house.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+)`", cell) for cell in cells]


def imported(path: Path, package: str) -> Iterator[str]:
    """Modules of a package that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{package}."))
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield str(node.module).split(".")[1]


def test_every_module_has_its_place() -> None:
    listed = [name for row in rows() for name in row]
    there = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(there)


def test_imports_go_down() -> None:
    depth = {name: place for place, row in enumerate(rows()) for name in row}
    upward = [
        f"{name} imports {other}"
        for name, place in depth.items()
        for other in imported(PACKAGE / f"{name}.py", "hamu_jax")
        if depth[other] < place
    ]
    assert upward == []


def test_nothing_knows_the_experiments_and_they_know_what_is_public() -> None:
    assert [path.name for path in PACKAGE.glob("*.py") if list(imported(path, "experiments"))] == []
    private = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "experiments").rglob("*.py"))
        for name in imported(path, "hamu_jax")
        if name.startswith("_")
    ]
    assert private == []


def test_importing_is_light() -> None:
    """What only some parts need, or heavy things that those bring, is imported by who uses it."""
    heavy = {"flax", "IPython", "matplotlib", "orbax", "rich", "rouge_score", "scipy", "sklearn", "tensorflow", "tyro"}
    modules = ", ".join(f"hamu_jax.{name}" for name in ("doctor", "metrics", "objectives", "report", "rules", "sharding"))
    program = f"import sys, {modules}; print(*{{name.split('.')[0] for name in sys.modules}})"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded = set(said.split())
    assert {"hamu_jax", "jax", "optax"} <= loaded
    assert heavy & loaded == set()
