"""Data that is kept beside the repository, never in it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared(*parts: str) -> Path:
    """A path below the shared directory: $HAMU_JAX_SHARED, or `shared` beside or above the repository.

    Skips the test where there is none.
    """
    given = os.environ.get("HAMU_JAX_SHARED")
    candidates = [Path(given)] if given else [parent / "shared" for parent in (ROOT, *ROOT.parents)]
    found = next((path for path in (base.joinpath(*parts) for base in candidates) if path.exists()), None)
    if found is None:
        pytest.skip(f"{'/'.join(parts)} is not in $HAMU_JAX_SHARED or in a directory `shared` above the repository")
    return found


def shared_data(*parts: str) -> Path:
    """A path below its `data`."""
    return shared("data", *parts)
