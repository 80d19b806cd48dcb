"""What a sweep is doing, one line per run: a progress bar would be drawn over that of the run."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console

Item = TypeVar("Item")


def announced(items: Sequence[Item], describe: Callable[[Item], str]) -> Iterator[Item]:
    """Yields the items, each after a line on standard error with its number and `describe(item)`."""
    console = Console(stderr=True, highlight=False)
    for number, item in enumerate(items, 1):
        console.print(f"{number} of {len(items)}: {describe(item)}")
        yield item
