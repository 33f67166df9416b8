"""The model of a printed table: columns, rows and cells. Every output format reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Value = float | int | str | None
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a table, unformatted.

    Attributes:
        value: A number or a text; None for a value that should exist but does not (printed as `-`).
        std: Sample standard deviation of the values whose mean is `value`.
        n: How many values `value` is the mean of.
        note: What a reader should know about the value, such as the status of a published number.
    """

    value: Value
    std: float | None = None
    n: int | None = None
    note: str = ""


def decimals(digits: int, sign: str = "") -> Format:
    """Return a formatter with a fixed number of decimals; `sign="+"` prints the sign of positive numbers too."""
    return lambda value: format(value, f"{sign}.{digits}f")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: Name of the column in data files, and of its cells in a row.
        heading: Name of the column in printed tables.
        kind: `name` says what a row is (left-aligned); `number` holds measurements; `text` holds remarks.
        format: Formatter of numbers.
        about: Explanation of the heading.
        blank: What printed tables show for an empty text.
        has_std: Whether the cells are means with a standard deviation; data files hold both.
        prints_std: Whether printed tables show the standard deviation.
        is_main: Whether rows are judged by this column.
        is_printed: Whether printed tables show the column; data files hold all columns.
    """

    key: str
    heading: str
    kind: Literal["name", "number", "text"] = "name"
    format: Format = str
    about: str = ""
    blank: str = ""
    has_std: bool = False
    prints_std: bool = True
    is_main: bool = False
    is_printed: bool = True

    def text(self, row: Row) -> str:
        """Return the printed text of this column in `row`; empty where the row has no such cell."""
        cell = row.cells.get(self.key)
        if cell is None:
            return ""
        if cell.value is None:
            return "-"
        if isinstance(cell.value, str):
            return cell.value or self.blank
        text = self.format(cell.value)
        return f"{text} ± {self.format(cell.std)}" if self.prints_std and cell.std is not None else text


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: its cells by the key of their column. Columns without a cell are blank."""

    cells: Mapping[str, Cell]

    def value(self, key: str) -> Value:
        """Return the value of a cell; None where there is none."""
        cell = self.cells.get(key)
        return None if cell is None else cell.value


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows under a title."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""

    @property
    def printed(self) -> list[Column]:
        """The columns of printed tables."""
        return [column for column in self.columns if column.is_printed]

    @property
    def lines(self) -> list[list[str]]:
        """The printed text of every row, by printed column."""
        return [[column.text(row) for column in self.printed] for row in self.rows]

    def constants(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return (heading, text) by key of those columns that have the same, non-empty text in every row."""
        texts = {
            column.key: (column.heading, {column.text(row) for row in self.rows})
            for column in self.columns
            if column.key in keys
        }
        return {
            key: (texts[key][0], next(iter(texts[key][1])))
            for key in keys
            if key in texts and len(texts[key][1]) == 1 and texts[key][1] != {""}
        }


def text_table(title: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """Return a table of texts, one row per mapping; the headings are the keys of all mappings, in their order."""
    headings = dict.fromkeys(heading for row in rows for heading in row)
    return Table(
        [Column(heading, heading) for heading in headings],
        [Row({heading: Cell(text) for heading, text in row.items()}) for row in rows],
        title,
    )
