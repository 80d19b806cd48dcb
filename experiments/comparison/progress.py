"""What a sweep is doing, a line at a time: a bar would be drawn over that of the run itself."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console

Item = TypeVar("Item")


def told(items: Sequence[Item], words: Callable[[Item], str]) -> Iterator[Item]:
    """The items, each after a line on standard error that says which of how many it is, in `words(item)`."""
    console = Console(stderr=True, highlight=False)
    for place, item in enumerate(items, 1):
        console.print(f"{place} of {len(items)}: {words(item)}")
        yield item
