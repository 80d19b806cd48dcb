"""The settings of the experiments on cost."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """The benchmark's settings.

    Attributes:
      out: the directory of the results.
      reference: a clone of the paper's repository. Default: its PyTorch code is not measured.
      only: the names of the measurements to make. Default: all.
      smoke: small sizes, to see that it works; the numbers mean nothing.
      repeats: the repetitions of every timing. Default: those of the scale.
    """

    out: Path = Path("benchmark-out")
    reference: Path | None = None
    only: tuple[str, ...] = ()
    smoke: bool = False
    repeats: int = 0


@dataclasses.dataclass(frozen=True)
class Memory:
    """The settings of the experiment on memory.

    Attributes:
      out: the directory of the results.
      model: the model whose sizes are taken.
      trained: what is unlearned: an adapter beside frozen weights, or all weights.
      weights: the dtype of the model's weights. It computes in bfloat16; an adapter is in float32.
      devices: numbers of devices that the weights and the batches are split among (`fsdp`).
      batch_size: sequences from either set, on all devices together.
      length: tokens per sequence.
      rank: the rank of the adapter.
    """

    out: Path = Path("memory-out")
    model: Literal["llama2-7b", "tiny"] = "llama2-7b"
    trained: tuple[Literal["lora", "full"], ...] = ("lora", "full")
    weights: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
    devices: tuple[int, ...] = (1, 8)
    batch_size: int = 8
    length: int = 512
    rank: int = 8


@dataclasses.dataclass(frozen=True)
class Communication:
    """The settings of the experiment on communication.

    Attributes:
      out: the directory of the result.
      width: channels of the network that is compiled.
    """

    out: Path = Path("communication-out")
    width: int = 16
