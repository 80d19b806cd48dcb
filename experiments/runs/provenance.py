"""What stands beside an experiment's numbers, and the files that it leaves."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.runs.config import flat
from hamu_jax import Unlearned, report


def settings_record(program: str, settings: Any) -> dict[str, Any]:
    """The command as it was typed, and every setting by the name of its flag, fit for JSON."""
    values = {"command": f"python -m experiments.{program} " + " ".join(sys.argv[1:]), **flat(settings)}
    return json.loads(json.dumps(values, default=os.fspath))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a whole JSON file."""
    report.write_whole(path, json.dumps(record, indent=1) + "\n")


def write_results(
    directory: Path,
    name: str,
    settings: Mapping[str, Any],
    numbers: Mapping[str, Any],
    *,
    sections: Sequence[str],
    figure: Figure | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `name.json`, `name.png` if there is a figure, and `name.md`, which ends with how it was made.

    Args:
      directory: of the files.
      name: of the files.
      settings: see `settings_record`.
      numbers: what was measured, for the JSON file.
      sections: the text.
      figure: the picture.
      environment: what stands beside the numbers besides `report.environment()`.

    Returns:
      The path of the text.
    """
    environment = {**report.environment(), **(environment or {})}
    write_json(directory / f"{name}.json", {"settings": settings, "environment": environment, **numbers})
    if figure is not None:
        report.save_figure(figure, directory / f"{name}.png")
    text = "\n\n".join([*sections, report.provenance(settings, measured_in=environment)]) + "\n"
    report.write_whole(directory / f"{name}.md", text)
    return directory / f"{name}.md"


def conclusion(result: Unlearned, models: report.Models) -> str:
    """The report's paragraph for an unlearned model, with the full and the retrained one, as experiments name things."""
    return report.conclude(
        result,
        models,
        retain="test retain/accuracy",
        forget="test forget/accuracy",
        along="validation forget/accuracy",
        unlearned="unlearned",
        original="full",
        retrained="retrained",
    )
