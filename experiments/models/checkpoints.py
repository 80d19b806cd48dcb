"""Where a model is: a local directory, a GGUF file, or a hub id on a machine that is connected."""

import os
import re
from pathlib import Path

from experiments.models import gguf_format

FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]


def resolve(model: str | os.PathLike[str]) -> Path:
    """The Hugging Face directory of a model, made or fetched if need be.

    A GGUF file is converted once, into a directory beside it that is named after it (`NAME.gguf` into `NAME-gguf`).

    Args:
      model: a directory, a file that ends in `.gguf`, or a hub id (`OWNER/NAME`).

    Returns:
      The directory, for `hf_format.load`.

    Raises:
      FileNotFoundError: if it is none of these.
      ImportError: for a hub id, if huggingface_hub is not installed.
      ConnectionError: for a hub id that cannot be reached.
      ValueError: for a GGUF file that cannot be converted, or is newer than its conversion.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        directory = path.with_name(f"{path.stem}-gguf")
        if not directory.exists():
            gguf_format.convert(path, directory)
        config = directory / "config.json"
        if path.is_file() and config.is_file() and path.stat().st_mtime > config.stat().st_mtime:
            raise ValueError(
                f"model: got {path}, which is newer than {directory} that was made of it, expected no such directory"
            )
        return directory
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(model)) and not path.parent.is_dir():
        return _fetched(str(model))
    raise FileNotFoundError(f"model: got {model}, expected a directory, a .gguf file, or a hub id such as OWNER/NAME")


def _fetched(model: str) -> Path:
    """A hub's model, as its own cache holds it."""
    try:
        import huggingface_hub  # noqa: PLC0415
    except ImportError as error:
        raise ImportError('huggingface_hub is not installed: pip install "hamu_jax[experiments]"') from error
    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=FILES))
    except Exception as error:  # it raises its own, the HTTP library's and the system's
        raise ConnectionError(
            f"model: got the hub id {model!r}, which could not be fetched ({error}); a directory would do"
        ) from error
