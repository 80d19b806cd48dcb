"""What the library costs: benchmark, memory, communication; `--help` after each lists its options."""

import tyro

from experiments.cost.config import Benchmark, Communication, Memory
from experiments.runs import command
from experiments.runs.config import Group


def benchmark(settings: Group[Benchmark]) -> None:
    """Measures times and memory, each against its target and, with a clone of the paper's code, against PyTorch."""
    command.run("experiments.cost.benchmark:run_benchmark", settings)


def memory(settings: Group[Memory]) -> None:
    """Says what memory a step needs on each device, from the compiled program of a model that is never made."""
    command.run("experiments.cost.memory:on_virtual_devices", settings)


def communication(settings: Group[Communication]) -> None:
    """Says what devices send each other in one step, from the compiled program, and by a formula on 4,096 devices."""
    command.run("experiments.cost.communication:on_virtual_devices", settings)


if __name__ == "__main__":
    commands = {"benchmark": benchmark, "memory": memory, "communication": communication}
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m experiments.cost", description=__doc__)
