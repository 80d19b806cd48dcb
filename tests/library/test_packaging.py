"""What is built, and what a stranger's empty environment makes of it."""

import ast
import email
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import without_extras

import hamu_jax

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = {str(path.relative_to(ROOT)) for path in (ROOT / "hamu_jax").rglob("*.py")} | {"hamu_jax/py.typed"}
BESIDE = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
HATCHLING_ADDS = {".gitignore", "PKG-INFO"}


def call(*command: Any, **options: Any) -> None:
    """Runs a command that must succeed; what it said is in the error otherwise."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def build(source: Path, directory: Path, target: str) -> Path:
    """Builds a wheel or an sdist with what is installed: no network is needed."""
    call(sys.executable, "-m", "hatchling", "build", "--directory", directory, "--target", target, cwd=source)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")) as archive:
        archive.extractall(place, filter="data")
    (unpacked,) = place.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    about = f"hamu_jax-{hamu_jax.__version__}.dist-info"
    expected = {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")} | SOURCES
    assert sorted(names) == sorted(expected)


def test_the_sdist_holds_what_makes_the_wheel(sdist: Path) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert names == SOURCES | BESIDE | HATCHLING_ADDS


def test_the_sdist_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    assert build(sdist, tmp_path, "wheel").read_bytes() == wheel.read_bytes()


def test_the_metadata(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("hamu_jax", hamu_jax.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# hamu_jax")


def test_the_install_page_has_every_extra(metadata: Message) -> None:
    table = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").split("| extra | brings |")[1].split("\n\n")[0]
    listed = re.findall(r"`([\w-]+)`", " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `")))
    assert sorted(listed) == sorted(metadata.get_all("Provides-Extra", []))


def asked_for() -> set[tuple[str, str]]:
    """Every module that the library imports only when it is needed, and the extra that it then names."""
    calls = [
        node
        for path in (ROOT / "hamu_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "require"
    ]
    return {(ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1])) for node in calls}


def test_the_extra_that_an_error_names_brings_the_module() -> None:
    extras = PROJECT["optional-dependencies"]
    of_module = importlib.metadata.packages_distributions()
    for module, extra in asked_for():
        names = {name.replace("_", "-") for name in of_module[module.split(".")[0]]}
        brought = {re.split("[<>=]", line)[0] for line in extras[extra]}
        assert names & brought, f"{module} is of {names}, and {extra} brings {brought}"
    assert {extra for _, extra in asked_for()} == {extra for _, extra, _ in without_extras.NEEDING}


@pytest.mark.slow
def test_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel and what it asks for, nothing else: it works, and what needs more says so."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--disable-pip-version-check", wheel)
    (tmp_path / "empty").mkdir()
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    call(python, "-W", "error", without_extras.__file__, cwd=tmp_path / "empty", env=alone)
