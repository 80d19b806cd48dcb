"""Libraries that only parts of hamu_jax need."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Imports a module, or says which extra brings it.

    Raises:
      ImportError: naming the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is not installed: pip install "hamu_jax[{extra}]"') from error
