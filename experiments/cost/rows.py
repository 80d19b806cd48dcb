"""A row of the benchmark's tables, and how much is measured."""

import dataclasses
from typing import Any, TypeAlias

from experiments.runs.timing import ratios, spread

Row: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      repeats: of every timing.
      examples: of a profile, for each model.
      pairs: examples whose Gram matrix is formed.
      requests: numbers of requests that are solved.
      profile: examples of the profile whose memory is measured.
      microbatch: examples handled at once in it.
      images: in each batch of the ResNet-20.
      sequences: in each batch of the language model, and their length.
      tiny: a tiny language model in the place of one with 135 million parameters.
    """

    repeats: int = 21
    examples: tuple[tuple[str, int], ...] = (("MLP", 1024), ("CNN", 1024), ("transformer", 256))
    pairs: int = 64
    requests: tuple[int, ...] = (1, 16, 64, 256, 1024)
    profile: int = 4096
    microbatch: int = 64
    images: int = 128
    sequences: tuple[int, int] = (8, 64)
    tiny: bool = False


SMOKE = Scale(2, (("MLP", 16), ("CNN", 16), ("transformer", 4)), 4, (1, 16), 128, 64, 4, (2, 8), tiny=True)


def compared(case: str, against: str, ours: list[float], other: list[float], *, target: float | None = None) -> Row:
    """The spread of two timings and of their ratio."""
    row = {**alone(case, ours), "against": against, **_named("other", other), **ratios(ours, other)}
    return row if target is None else judged(row, target)


def judged(row: Row, target: float) -> Row:
    """With what its ratio should be at most, and whether it is."""
    return {**row, "target": target, "met": row["ratio"] <= target}


def alone(case: str, ours: list[float]) -> Row:
    """The spread of a timing."""
    return {"case": case, **_named("ours", ours)}


def _named(name: str, seconds: list[float]) -> Row:
    """The spread under names of their own."""
    return {f"{name}_{key}": value for key, value in spread(seconds).items()}
