"""What the library costs: benchmark, memory, communication; `--help` after each lists its options."""

from experiments.cost.config import Benchmark, Communication, Memory
from experiments.runs.command import Command, main

HERE = "experiments.cost"
BENCHMARK = "Measures times and memory, each against its target and, with a clone of the paper's code, against PyTorch."
MEMORY = "Says what memory a step needs on each device, from the compiled program of a model that is never made."
COMMUNICATION = "Says what devices send each other in one step, from the compiled program, and by a formula on 4,096 devices."
COMMANDS = {
    "benchmark": Command(Benchmark, f"{HERE}.benchmark:run_benchmark", BENCHMARK, cache=False),
    "memory": Command(Memory, f"{HERE}.memory:on_virtual_devices", MEMORY, cache=False),
    "communication": Command(Communication, f"{HERE}.communication:on_virtual_devices", COMMUNICATION, cache=False),
}

if __name__ == "__main__":
    main("cost", __doc__, COMMANDS)
