"""Numbers of a table."""

import math
from typing import Any

import numpy as np


def show(value: Any) -> str | None:
    """A cell: floats with three decimals, or three digits where these say nothing or are far too many; None if unknown."""
    if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0:
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0.0 or 5e-4 <= abs(value) < 1e4 else f"{value:.3g}"  # noqa: PLR2004
