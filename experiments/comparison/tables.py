"""The tables of a comparison."""

from collections.abc import Mapping
from typing import Any

from experiments.comparison.summary import Spread
from hamu_jax import report

Rows = Mapping[str, Mapping[str, Any]]


def results_table(rows: Rows, columns: Mapping[str, str]) -> str:
    """A row per method: mean ± standard deviation of every column's number."""
    cells = [[name, *(cell(row["numbers"].get(column)) for column in columns.values())] for name, row in rows.items()]
    return report.table(["method", *columns], cells)


def chosen_table(rows: Rows) -> str:
    """The chosen setting of every method, with its validation gap."""
    header = ["method", "learning rate", "improvement", "weight", "validation gap", ""]
    return report.table(header, [_chosen(name, row) for name, row in rows.items() if "setting" in row])


def setting_cells(setting: Mapping[str, Any]) -> list[str]:
    """Learning rate, improvement and weight, empty where the method has none."""
    return [f"{setting[name]:g}" if setting.get(name) else "" for name in ("learning_rate", "improvement", "weight")]


def _chosen(name: str, row: Mapping[str, Any]) -> list[str]:
    """The cells of one method."""
    notes = ["at the edge of the grid"] if row["at the edge"] else []
    notes += sorted({status for status in row["status"] if status != "completed"})
    return [name, *setting_cells(row["setting"]), f"{row['validation gap']:.4f}", ", ".join(notes)]


def cell(value: Spread | None) -> str | None:
    """A number with its spread, if it has one."""
    if value is None:
        return None
    digits = 3 if abs(value[0]) < 10 else 1  # noqa: PLR2004
    middle, spread = (None if x is None else f"{x:.{digits}f}" for x in value)
    return f"{middle}" if spread is None else f"{middle} ± {spread}"
