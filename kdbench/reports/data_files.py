"""Tables as data: CSV and Parquet, with a column for each number."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdbench.core.class_groups import CLASS_GROUPS
from kdbench.reports.model import Table, Value
from kdbench.reports.report import Report, run_values

if TYPE_CHECKING:
    import pyarrow as pa

SCORES = ("top1", "top5", "accuracy", "token_accuracy", "agreement", "nll", "ece", *CLASS_GROUPS)
"""Scores of the last epoch that the data of runs always have a column for."""


def row_data(table: Table) -> list[dict[str, Value]]:
    """Return the rows of a table as plain data; means with a deviation are `KEY_mean` and `KEY_std`."""
    return [
        {
            name: value
            for column in table.columns
            if column.kind != "text" or column.key == "notes"
            for name, value in _values(row.cells.get(column.key), column.key, column.has_std)
        }
        for row in table.rows
    ]


def _values(cell: Any, key: str, has_std: bool) -> list[tuple[str, Value]]:
    value, std = (None, None) if cell is None else (cell.value, cell.std)
    return [(f"{key}_mean", value), (f"{key}_std", std)] if has_std else [(key, value)]


def run_data(report: Report) -> list[dict[str, Value]]:
    """Return the runs as plain data, each with the number of its row.

    A run that is scored on several test sets appears once for each.
    """
    rows: list[dict[str, Value]] = []
    for place, series in enumerate(report.series):
        for run in series.runs:
            values = run_values(run)
            scores = {f"last_{name}": values.get(f"last_{name}") for name in SCORES}
            others = {key: value for key, value in values.items() if not key.startswith("last_")}
            rows.append({"row": place, "setting": series.setting, **others, **scores})
    return rows


def csv(rows: Sequence[dict[str, Value]]) -> bytes:
    """Encode plain data as CSV; missing values are empty."""
    import pyarrow.csv

    sink = io.BytesIO()
    pyarrow.csv.write_csv(_arrow(rows), sink)
    return sink.getvalue()


def parquet(rows: Sequence[dict[str, Value]]) -> bytes:
    """Encode plain data as Parquet."""
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(_arrow(rows), sink)
    return sink.getvalue()


def _arrow(rows: Sequence[dict[str, Value]]) -> pa.Table:
    """Convert to Arrow. Columns without any value are numbers, so that the schema does not depend on the runs."""
    import pyarrow as pa

    table = pa.Table.from_pylist(list(rows))
    floats = [pa.field(f.name, pa.float64()) if pa.types.is_null(f.type) else f for f in table.schema]
    return table.cast(pa.schema(floats))
