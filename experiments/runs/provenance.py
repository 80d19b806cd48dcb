"""What must stand beside an experiment's numbers."""

import dataclasses
import json
import os
import sys
from typing import Any

from hamu_jax import Unlearned, report


def settings(name: str, config: Any) -> dict[str, Any]:
    """The command as it was typed, and every setting, fit for JSON."""
    values = {"command": f"python -m experiments.{name} " + " ".join(sys.argv[1:]), **dataclasses.asdict(config)}
    return json.loads(json.dumps(values, default=os.fspath))


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
