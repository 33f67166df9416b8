"""Writing a report in several formats."""

import pytest

from kdbench.reports.formats import FORMATS, write_report
from kdbench.reports.report import report_on
from tests.reports.records import three_losses


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("html", ["report.html"]),
        ("md", ["report.md"]),
        ("tex", ["report.tex"]),
        ("csv", ["rows.csv", "runs.csv"]),
        ("parquet", ["rows.parquet", "runs.parquet"]),
    ],
)
def test_each_format_has_its_files(form, names, tmp_path):
    report = report_on([str(three_losses(tmp_path / "runs"))], "")
    assert form in FORMATS
    assert [file.name for file in write_report(report, tmp_path / "out", [form])] == names
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(names)
