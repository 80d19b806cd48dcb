"""What must stand beside an experiment's numbers."""

import dataclasses
import sys
from pathlib import Path
from typing import Any


def settings(name: str, config: Any) -> dict[str, Any]:
    """The command as it was typed, and every setting, fit for JSON."""
    values = {"command": f"python -m experiments.{name} " + " ".join(sys.argv[1:]), **dataclasses.asdict(config)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
