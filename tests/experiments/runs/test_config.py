"""Settings in groups, and what decides a run."""

import dataclasses
from typing import Any

import pytest

from experiments.language import config as language
from experiments.runs.config import flat, replaced
from experiments.runs.run_store import deciding, digest, run_directory
from experiments.vision import config as vision


def test_a_change_reaches_its_group() -> None:
    settings = replaced(vision.Sweep(), method="ga", rho=0.5, devices=3, seeds=(1,), out="x")
    assert (settings.method.method, settings.problem.rho, settings.devices.devices) == ("ga", 0.5, 3)
    assert (settings.sweep.seeds, settings.out) == ((1,), "x")
    with pytest.raises(TypeError, match="nothing"):
        replaced(vision.Unlearning(), nothing=1)


def test_flags_are_unique() -> None:
    """A flag is a setting of one group."""
    for settings in (vision.Sweep(), language.Sweep()):
        groups = [getattr(settings, field.name) for field in dataclasses.fields(settings)]
        names = [field.name for group in groups if dataclasses.is_dataclass(group) for field in dataclasses.fields(group)]
        assert len(names) == len(set(names))
        assert set(names) <= set(flat(settings))


@pytest.mark.parametrize("settings", [vision.Unlearning(), language.Unlearning()], ids=["vision", "language"])
def test_problem_and_method_alone_decide_a_run(settings: Any) -> None:
    before = run_directory(settings, "problem")
    for name in ("tensorboard", "devices", "mesh", "data_dir"):
        assert run_directory(replaced(settings, **{name: "changed"}), "problem") == before
    for name in {**vars(settings.problem), **vars(settings.method)}.keys() - {"method"}:
        changed = replaced(
            settings, **{name: 77 if name != "training" else dataclasses.replace(settings.problem.training, seed=7)}
        )
        assert run_directory(changed, "problem") != before, name


def test_runs_of_earlier_versions_are_found() -> None:
    """The hash of a run is that of the versions before the settings were grouped."""
    assert digest(deciding(vision.Unlearning())) == "00098573"
    assert digest(deciding(language.Unlearning())) == "d854e7c0"
