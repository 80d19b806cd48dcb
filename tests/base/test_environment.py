"""Where a number was measured: always known, and text."""

import datetime
import importlib.metadata
import re
import sys
from typing import Any

import jax
import pytest

import hamu_jax
from hamu_jax import report


def test_the_environment_dates_a_number() -> None:
    got = report.environment()
    assert abs(datetime.date.fromisoformat(got["date"]) - datetime.datetime.now(datetime.UTC).date()) <= datetime.timedelta(1)
    for name in ("jax", "jaxlib", "optax", "numpy"):
        assert got[name] == importlib.metadata.version(name)
    assert got["hamu_jax"].split(" ")[0] == hamu_jax.__version__
    assert got["python"] == ".".join(map(str, sys.version_info[:3]))
    assert got["device"].startswith(f"{jax.device_count()} x {jax.default_backend()} (")


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", hamu_jax.__version__)


def test_the_environment_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that pip did not install, and a device whose driver is broken."""

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    def broken(*_: Any) -> Any:
        raise RuntimeError("no driver")

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(jax, "devices", broken)
    got = report.environment()
    assert got["hamu_jax"] == f"{hamu_jax.__version__} (not installed)"
    assert (got["jax"], got["numpy"], got["device"]) == ("not installed", "not installed", "unknown (no driver)")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: None)  # metadata without a version
    assert report.environment()["jax"] == "not installed"


def test_provenance() -> None:
    lines = report.provenance({"seed": 7, "a_b [c](d)": "x`y\nz"}).splitlines()
    assert lines[:2] == ["## How it was made", ""]
    assert lines[2:4] == ["- seed: `7`", r"- a_b \[c\](d): ``x`y z``"]
    assert lines[4:] == [f"- {name}: `{value}`" for name, value in report.environment().items()]
    assert report.provenance({"seed": 7}, measured_in={"jax": "1"}).endswith("\n- seed: `7`\n- jax: `1`")
