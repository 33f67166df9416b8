"""The files that a table writes."""

from kdbench.reports.report import report_on_table
from kdbench.reports.results_file import read_results
from kdbench.reports.table_folder import write_table
from kdbench.tables.definition import load_table
from tests.reports.records import record


def test_page_chart_and_results_are_written(tmp_path):
    records = [record("kd"), record("ce", state="failed")]
    report = report_on_table(load_table("demo", []), records, "kdbench table demo", ["ce (nan)"])
    files = write_table(report, records, tmp_path / "out")
    assert [file.name for file in files] == ["README.md", "table.png", "results.jsonl"]
    assert "![chart](table.png)" in files[0].read_text()
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert [one["state"] for one in read_results(files[2]).records] == ["done", "failed"]
