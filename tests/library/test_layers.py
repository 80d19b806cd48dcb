"""Who may import whom: the table in CONTRIBUTING.md, from top to bottom."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hamu_jax"


def packages() -> list[str]:
    """The folders of the table, from top to bottom."""
    house = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## How the house is built")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)`", house, flags=re.MULTILINE)


def sources(package: str) -> list[Path]:
    """The files of a package, or of a module that stands alone."""
    directory = PACKAGE / package
    return sorted(directory.rglob("*.py")) if directory.is_dir() else [directory.with_suffix(".py")]


def imported(path: Path, package: str) -> Iterator[str]:
    """Modules of a package that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{package}."))
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield str(node.module).split(".")[1]


def test_every_package_has_its_row() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(packages()) == sorted(names - {"__init__"})


def test_imports_go_down() -> None:
    depth = {name: row for row, name in enumerate(packages())}
    upward = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for name in packages()
        for path in sources(name)
        for other in imported(path, "hamu_jax")
        if depth[other] < depth[name]
    ]
    assert upward == []


def test_nothing_knows_the_experiments_and_they_know_what_is_public() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if list(imported(path, "experiments"))] == []
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
