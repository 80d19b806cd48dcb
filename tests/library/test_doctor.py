"""What a bug report says."""

import importlib.metadata
from pathlib import Path

import jax
import pytest

import hamu_jax
from hamu_jax import doctor


def test_it_says_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    monkeypatch.setenv("HF_TOKEN", "hf_not_yours")
    said = doctor.examine()
    assert said["Versions"]["jax"] == importlib.metadata.version("jax")
    assert said["Devices"]["processes"] == "0 of 1"
    assert all(str(device) in said["Devices"] for device in jax.local_devices())
    assert said["Settings"]["jax_enable_x64"] == str(jax.config.jax_enable_x64)
    assert said["Settings"]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == ".5"
    assert said["Data"]["tensorflow-datasets"] == f"{tmp_path}: cifar10"
    assert said["A step on each kind of device"] == {"cpu": "as it should be"}
    assert "hf_not_yours" not in doctor.describe()


def test_it_hides_who_you_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert "- tensorflow-datasets: `~/tensorflow_datasets: not there`" in doctor.describe()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ['orbax-checkpoint>=1; extra == "driver"', 'no-such-package>=2; extra == "driver"', 'ruff; extra == "dev"', "jax"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    known = importlib.metadata.version("orbax-checkpoint")
    assert doctor.examine()["Optional packages"] == {"driver": f"orbax-checkpoint {known}, no-such-package missing"}


def test_a_checkout_that_pip_did_not_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert doctor.examine()["Optional packages"] == {"hamu_jax": "not installed: its extras are unknown"}


def test_a_wrong_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "transform", lambda _, **options: hamu_jax.transform(0.5, **options))
    assert doctor.examine()["A step on each kind of device"]["cpu"].startswith("WRONG: got")
