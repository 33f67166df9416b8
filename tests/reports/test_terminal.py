"""Reports in the terminal."""

import io

from rich.console import Console

from kdbench.reports.places import committed_results
from kdbench.reports.report import report_on_table
from kdbench.reports.results_file import read_results
from kdbench.reports.terminal import print_report
from kdbench.tables.definition import load_table


def printed(records: list[dict]) -> str:
    output = io.StringIO()
    report = report_on_table(load_table("demo", []), records, "kdbench table demo")
    print_report(Console(file=output, width=200), report)
    return output.getvalue()


def test_title_rows_caption_and_teachers_are_printed():
    lines = printed(read_results(committed_results("demo")).records).splitlines()
    assert lines[0].startswith("Demo: resnet20 -> resnet8")
    assert lines[2] == "┃ loss ┃ last top-1 % ┃ n ┃ best_on_test % ┃ agreement % ┃ training s ┃"
    assert lines[4] == "│ ce   │  8.40 ± 0.57 │ 2 │           8.40 │        10.2 │         18 │"
    assert lines[-1] == "Teacher resnet20: 61.90 % test top-1, cross-entropy on test 1.3883 nats."


def test_without_runs_there_is_no_table():
    assert "┃" not in printed([])
