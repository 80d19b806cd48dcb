"""The documentation names everything that is public, and options that exist."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from experiments.language import config as language
from experiments.runs.config import flat
from experiments.vision import config as vision

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CODE_WIDTH = 88  # what a page of the documentation shows without cutting it off
MODULES = ("hamu_jax", "hamu_jax.metrics", "hamu_jax.objectives", "hamu_jax.report", "hamu_jax.rules", "hamu_jax.sharding")


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    page = (DOCS / "api" / f"{name.removeprefix('hamu_jax.')}.md").read_text(encoding="utf-8")
    public = set(importlib.import_module(name).__all__) - {module.removeprefix("hamu_jax.") for module in MODULES}
    assert set(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)) == public


def test_every_public_module_has_a_page() -> None:
    listed = re.findall(r"^(\w+)$", (DOCS / "api" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {f"{name}.md" for name in listed} == {path.name for path in (DOCS / "api").glob("*.md")} - {"index.md"}
    assert set(listed) == {module.split(".")[-1] for module in MODULES}


def test_the_migration_table_names_options_that_exist() -> None:
    options: set[str] = set()
    for settings in (vision, language):
        options |= {f"--{name}" for name in flat(settings.Unlearning())}
        options |= {f"--training.{field.name}" for field in dataclasses.fields(settings.Training)}
    lines = (DOCS / "migration.md").read_text(encoding="utf-8").splitlines()
    ours = re.findall(r"--[a-z][a-z.-]*", " ".join(line.split("|")[2] for line in lines if line.startswith("|")))
    assert ours
    assert {option.replace("-", "_").replace("__", "--") for option in ours} <= options


def test_code_in_documents_fits_a_page() -> None:
    wide: list[str] = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")):
        blocks = page.read_text(encoding="utf-8").split("```")[1::2]
        wide += [f"{page.name}: {line}" for block in blocks for line in block.splitlines()[1:] if len(line) > CODE_WIDTH]
    assert not wide


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
