"""Columns, rows and cells of printed tables."""

from kdbench.reports.model import Cell, Column, Row, Table, decimals, text_table

ACCURACY = Column("last", "last %", "number", decimals(2), has_std=True)


def test_cells_are_printed_by_their_column():
    assert ACCURACY.text(Row({"last": Cell(70.123, 0.5, 3)})) == "70.12 ± 0.50"
    assert ACCURACY.text(Row({"last": Cell(70.0)})) == "70.00"
    assert (
        Column("last", "", "number", decimals(1, "+"), prints_std=False).text(Row({"last": Cell(0.25, 9.0)}))
        == "+0.2"
    )


def test_missing_values_are_dashes_and_missing_cells_are_blank():
    assert ACCURACY.text(Row({"last": Cell(None)})) == "-"
    assert ACCURACY.text(Row({})) == ""
    assert Column("protocol", "", blank="all").text(Row({"protocol": Cell("")})) == "all"


def test_constants_are_columns_with_one_text():
    columns = [Column("a", "A"), Column("b", "B"), Column("c", "C"), Column("d", "D", is_printed=False)]
    rows = [Row({"a": Cell("x"), "b": Cell(text), "c": Cell(""), "d": Cell("y")}) for text in "pq"]
    table = Table(columns, rows)
    assert table.constants(("d", "a", "b", "c", "e")) == {"d": ("D", "y"), "a": ("A", "x")}
    assert table.lines == [["x", "p", ""], ["x", "q", ""]]


def test_a_table_of_texts_has_the_headings_of_all_rows():
    table = text_table("title", [{"a": "1"}, {"a": "2", "b": "3"}])
    assert [column.heading for column in table.columns] == ["a", "b"]
    assert table.lines == [["1", ""], ["2", "3"]]
    assert table.rows[1].value("b") == "3"
    assert table.rows[0].value("b") is None
