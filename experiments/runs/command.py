"""Runs a command: places it on its devices, keeps its compiled programs, and prints what it returns.

What a command does is imported when it runs, so that `--help` needs no JAX.
"""

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

from experiments.runs.config import Devices


def run(function: str, settings: Any, *arguments: Any, cache: bool = False) -> None:
    """Calls a function and prints the text that it returns, or the text in the file whose path it returns.

    Args:
      function: `module:name`. It is called with the settings and `arguments`, and with `mesh=` if the settings say devices.
      settings: of the command.
      *arguments: further arguments.
      cache: whether compiled programs are kept in the settings' `out`.
    """
    options: dict[str, Any] = {}
    if isinstance(getattr(settings, "devices", None), Devices):
        settings, options["mesh"] = _imported("experiments.runs.devices:place")(settings)
    programs = contextlib.nullcontext()
    if cache:
        programs = _imported("experiments.runs.compile_cache:compile_cache")(settings.out / "programs")
    with programs:
        result = _imported(function)(settings, *arguments, **options)
    if isinstance(result, Path):
        result = result.read_text(encoding="utf-8") + f"\nThe results are in {result.parent}/\n"
    sys.stdout.write(result)


def _imported(function: str) -> Any:
    """The function that `module:name` says."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)
