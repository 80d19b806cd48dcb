"""Where and when a number was measured."""

import datetime
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from hamu_jax._base.markdown import code, escape
from hamu_jax._base.version import __version__


def environment() -> dict[str, str]:
    """Versions, device and date: what must stand beside a measured number.

    It never fails: a package that pip did not install is "not installed" (`hamu_jax` itself is then its source's version, with
    that remark), and a device that cannot be reached is described by the error.

    Example:
      >>> list(environment())
      ['date', 'python', 'hamu_jax', 'jax', 'jaxlib', 'optax', 'numpy', 'device']
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "hamu_jax": __version__ if _installed("hamu_jax") else f"{__version__} (not installed)",
        **{name: _installed(name) or "not installed" for name in ("jax", "jaxlib", "optax", "numpy")},
        "device": _device(),
    }


def provenance(settings: Mapping[str, Any], *, measured_in: Mapping[str, Any] | None = None) -> str:
    """The block 'How it was made' of a report: one line per setting and per entry of the environment.

    Args:
      settings: what was run: command, seed, options. Names and values stay text, whatever they contain.
      measured_in: what `environment` returned when the numbers were measured; by default what it returns now.

    Returns:
      The Markdown block, without a newline at its end.

    Example:
      >>> print(provenance({"seed": 7}, measured_in={"jax": "0.10.0"}))
      ## How it was made
      <BLANKLINE>
      - seed: `7`
      - jax: `0.10.0`
    """
    entries = [*settings.items(), *(environment() if measured_in is None else measured_in).items()]
    return "\n".join(["## How it was made", "", *(f"- {escape(name)}: {code(value)}" for name, value in entries)])


def _installed(name: str) -> str | None:
    """The version of an installed distribution, if there is one; its metadata may lack a version."""
    try:
        return metadata.version(name)
    except Exception:
        return None


def _device() -> str:
    """How many devices of which kind."""
    try:
        device = jax.devices()[0]
        return f"{jax.device_count()} x {device.platform} ({device.device_kind})"
    except Exception as error:  # a broken driver must not cost a run its report
        return f"unknown ({error})"
