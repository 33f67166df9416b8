"""`kdbench report` on the command line."""

import subprocess
import sys

import pytest

from kdbench.cli.report import main
from tests.reports.records import three_losses


@pytest.fixture
def runs(tmp_path):
    return three_losses(tmp_path / "runs")


def test_every_format_is_written_by_default(runs, tmp_path, capsys):
    assert main([str(runs), "--output", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pages = {"report.html", "report.md", "report.tex"}
    assert names == pages | {"rows.csv", "runs.csv", "rows.parquet", "runs.parquet"}
    out = capsys.readouterr().out
    assert "9 runs in 3 rows" in out
    assert "not counted: " in out
    assert "report.html" in out


def test_only_the_requested_formats_are_written(runs, tmp_path):
    assert main([str(runs), "--output", str(tmp_path / "out"), "--formats", "md,tex"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.tex"}


def test_the_page_is_printed_on_request(runs, tmp_path, capsys):
    assert main([str(runs), "--output", str(tmp_path / "out"), "--formats", "md", "--print"]) == 0
    assert (tmp_path / "out" / "report.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder and no table 'nowhere'"),
        (["cifar100-sam"], "did you mean 'cifar100-same'?"),
        (["{runs}", "--formats", "doc"], "--formats=doc; possible: html"),
        (["{runs}", "--against", "dkd"], "--against=dkd: no run has that loss; possible: all, ce, kd, wttm"),
        (["{empty}"], "no finished run of a student in"),
        (["mcmi-lambda"], "table mcmi-lambda has no runs here"),
    ],
)
def test_mistakes_are_explained(arguments, message, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main([one.format(runs=runs, empty=tmp_path / "empty") for one in arguments]) == 2
    assert message in capsys.readouterr().err


def test_published_numbers_are_shown_where_there_are_no_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["cifar100-dot"]) == 2
    captured = capsys.readouterr()
    assert "| kd_dot | 75.12 | 73.77 | 75.55 |" in captured.out
    assert "Published (verified, 240 epochs)" in captured.out
    assert "has no runs here" in captured.err


def test_slow_packages_are_imported_only_where_there_are_runs():
    slow = (
        "{'torch', 'torchmetrics', 'timm', 'scipy', 'pyarrow', 'pandas', 'matplotlib', 'jinja2', 'lightning'}"
    )
    code = f"import sys, kdbench.cli.report; print(sorted({slow} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
