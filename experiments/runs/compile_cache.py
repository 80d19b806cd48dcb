"""Compiled programs that are kept: compiling a step takes seconds, and every process would do it again."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def kept_programs(directory: Path) -> Iterator[None]:
    """Has JAX keep compiled programs in a directory, and take from there what another process compiled."""
    wanted = {
        "jax_compilation_cache_dir": str(directory.resolve()),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def say(command: Callable[..., str], config: Any, *arguments: Any) -> None:
    """Writes what a command has to say, its programs kept in the settings' `out`."""
    with kept_programs(config.out / "programs"):
        sys.stdout.write(command(config, *arguments))
