"""A package's commands: each is placed on its devices, keeps its compiled programs, and prints what it returns.

What a command does is imported when it runs, so that `--help` needs no JAX.
"""

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.runs.config import Devices, Group


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      settings: the class of its settings.
      function: `module:name`. It is called with the settings and `arguments`, and with `mesh=` if the settings say devices.
      words: what it does, in a line.
      arguments: further arguments.
      names: the choices of a first argument on the command line, if there is one.
      cache: whether compiled programs are kept in the settings' `out`.
    """

    settings: type[Any]
    function: str
    words: str
    arguments: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    cache: bool = True


def main(program: str, description: str | None, commands: Mapping[str, Command]) -> None:
    """Runs the command that the command line says."""
    program = f"python -m experiments.{program}"
    functions = {name: _function(command) for name, command in commands.items()}
    if "" in functions:
        tyro.cli(functions[""], prog=program, description=description)
    else:
        tyro.extras.subcommand_cli_from_dict(functions, prog=program, description=description)


def run(command: Command, settings: Any, *arguments: Any) -> None:
    """Calls the function and prints the text that it returns, or the text in the file whose path it returns."""
    options: dict[str, Any] = {}
    if isinstance(getattr(settings, "devices", None), Devices):
        settings, options["mesh"] = _imported("experiments.runs.devices:place")(settings)
    programs = contextlib.nullcontext()
    if command.cache:
        programs = _imported("experiments.runs.compile_cache:compile_cache")(settings.out / "programs")
    with programs:
        result = _imported(command.function)(settings, *arguments, *command.arguments, **options)
    if isinstance(result, Path):
        result = result.read_text(encoding="utf-8") + f"\nThe results are in {result.parent}/\n"
    sys.stdout.write(result)


def _function(command: Command) -> Callable[..., None]:
    """The command as a function whose arguments tyro reads from the command line."""

    def with_name(name: str, settings: Any) -> None:
        run(command, settings, name)

    def without_name(settings: Any) -> None:
        run(command, settings)

    function = with_name if command.names else without_name
    function.__doc__ = command.words
    function.__annotations__["settings"] = Group[command.settings]
    if command.names:
        help_text = tyro.conf.arg(help=", ".join(command.names))
        function.__annotations__["name"] = Annotated[str, tyro.conf.Positional, help_text]
    return function


def _imported(function: str) -> Any:
    """The function that `module:name` says."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)
