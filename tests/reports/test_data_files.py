"""Results and runs as CSV and Parquet."""

import csv as csv_reader
import io

import pyarrow.parquet
import pytest

from kdbench.reports.data_files import csv, parquet, row_data, run_data
from kdbench.reports.report import report_on
from tests.reports.records import record, series_of, three_losses, write


@pytest.fixture
def report(tmp_path):
    """The report on three losses with three seeds, and a failed run."""
    return report_on([str(three_losses(tmp_path / "runs"))], "kdbench report runs")


def read_parquet(content: bytes) -> list[dict]:
    return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()


def test_csv_and_parquet_hold_the_same_numbers(report):
    data = row_data(report.results)
    texts = list(csv_reader.DictReader(io.StringIO(csv(data).decode())))
    rows = read_parquet(parquet(data))
    assert [row["loss"] for row in texts] == [row["loss"] for row in rows] == ["ce", "kd", "wttm"]
    for text, row in zip(texts, rows, strict=True):
        assert float(text["last_mean"]) == row["last_mean"]
        assert text["n"] == str(row["n"]) == "3"
    assert rows[1]["delta"] == pytest.approx(70.7 - 70.66)
    assert (rows[1]["published_mean"], rows[1]["published_status"]) == (70.66, "verified")
    assert (rows[1]["seeds"], rows[1]["protocol"]) == ("0 1 2", "")


def test_columns_do_not_depend_on_the_runs(report, tmp_path):
    alone = record("ce", teacher="none", dataset="mine")
    del alone["teacher"], alone["results"]["last"]["agreement"]
    other = report_on([str(write(tmp_path / "other", alone))], "")
    (row,) = row_data(other.results)
    assert list(row) == list(row_data(report.results)[0])
    assert (row["omitted_mean"], row["published_mean"], row["agreement"]) == (None, None, None)
    assert pyarrow.parquet.read_schema(io.BytesIO(parquet([row]))).field("delta").type == pyarrow.float64()


def test_runs_have_the_number_of_their_row(report):
    runs = read_parquet(parquet(run_data(report)))
    assert [(run["row"], run["seed"], run["last_top1"]) for run in runs][:2] == [(0, 0, 69.0), (0, 1, 69.1)]
    assert len(runs) == 9
    assert series_of(*(one.record for one in report.runs))[0].scores == [69.0, 69.1, 69.2]
