"""What a bug report needs: versions, devices, settings, what is installed, where data is, and whether a step works here.

    python -m hamu_jax.doctor

Nothing is sent anywhere. Paths in your home directory are shown with `~`.
"""

import importlib.metadata
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hamu_jax import report
from hamu_jax._base.markdown import code, escape
from hamu_jax._transform.state import get_hardness
from hamu_jax._transform.transform import transform

Section = dict[str, str]
SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_compilation_cache_dir", "jax_debug_nans", "jax_disable_jit")
VARIABLES = re.compile("(JAX|XLA|TFDS|HF|CUDA|TPU)_")
SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
DIRECTORIES = {
    "tensorflow-datasets": ("TFDS_DATA_DIR", "~/tensorflow_datasets"),
    "Hugging Face": ("HF_HOME", "~/.cache/huggingface"),
}


def examine() -> dict[str, Section]:
    """The report by section: each section is a table of names and values."""
    return {
        "Versions": {**report.environment(), "platform": sys.platform},
        "Devices": dict(_devices()),
        "Settings": {**{name: str(getattr(jax.config, name)) for name in SETTINGS}, **dict(_variables())},
        "Optional packages": dict(_packages()),
        "Data": dict(_directories()),
        "A step on each kind of device": dict(_steps()),
    }


def describe() -> str:
    """The report as Markdown, to be pasted into an issue."""
    sections = [
        f"## {title}\n\n" + "\n".join(f"- {escape(name)}: {code(value)}" for name, value in section.items())
        for title, section in examine().items()
    ]
    return "\n\n".join(sections).replace(str(Path.home()), "~") + "\n"


def _devices() -> Iterator[tuple[str, str]]:
    """Each device of this process, with its memory if that is known."""
    yield "processes", f"{jax.process_index()} of {jax.process_count()}"
    yield "CPU cores", str(os.cpu_count())
    for device in jax.local_devices():
        memory = (device.memory_stats() or {}).get("bytes_limit")
        yield str(device), device.device_kind + (f", {memory / 2**30:.1f} GiB" if memory else "")


def _variables() -> Iterator[tuple[str, str]]:
    """Environment variables that JAX or the data libraries read; nothing that may be a secret."""
    for name, value in sorted(os.environ.items()):
        if VARIABLES.match(name) and not SECRET.search(name):
            yield name, value


def _packages() -> Iterator[tuple[str, str]]:
    """The packages of every extra that a user may want: their versions, or that they are missing."""
    by_extra: dict[str, Section] = {}
    try:
        requirements = importlib.metadata.requires("hamu_jax") or []
    except importlib.metadata.PackageNotFoundError:
        yield "hamu_jax", "not installed: its extras are unknown"
        return
    for line in requirements:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"](\w+)['\"]", line)
        if name and extra and name[0] not in ("hamu_jax", "jax") and extra[1] != "dev":
            by_extra.setdefault(extra[1], {})[name[0]] = _version(name[0])
    for extra, packages in by_extra.items():
        yield extra, ", ".join(f"{name} {version}" for name, version in packages.items())


def _version(name: str) -> str:
    """A package's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _directories() -> Iterator[tuple[str, str]]:
    """The directories of the data libraries, and their contents."""
    for name, (variable, usual) in DIRECTORIES.items():
        directory = Path(os.environ.get(variable, usual)).expanduser()
        inside = ", ".join(sorted(path.name for path in directory.iterdir())[:20]) if directory.is_dir() else "not there"
        yield name, f"{directory}: {inside or 'empty'}"


def _steps() -> Iterator[tuple[str, str]]:
    """One update from two conflicting gradients, compared with its closed form."""
    tx = transform(1.0, radius=math.sqrt(10), blocks="global")
    step = jax.jit(lambda retain, forget: tx.update(retain, tx.init(retain), forget_grads=forget))
    for platform in dict.fromkeys(device.platform for device in jax.local_devices()):
        with jax.default_device(jax.local_devices(backend=platform)[0]):
            update, state = step(jnp.array([3.0, 4.0], jnp.float32), jnp.array([0.0, 1.0], jnp.float32))
            # Of the steps of this length that raise the forget loss by 1, (-3, 1) lowers the retain loss most; optax subtracts.
            right = np.allclose(update, [3.0, -1.0], atol=1e-5) and np.isclose(get_hardness(state).forget_change[0], 1.0)
            yield platform, "as it should be" if right else f"WRONG: got {update}, expected [3, -1]"


if __name__ == "__main__":
    sys.stdout.write(describe())
