"""The command, and what it writes: Markdown, LaTeX, CSV, Parquet, one HTML page."""

import csv
import json
import re

import pyarrow.parquet as parquet
import pytest

from kdbench.cli.report import main
from kdbench.reports.export import latex, markdown, tex
from kdbench.reports.html import embedded, html
from kdbench.reports.report import report_on
from kdbench.utils.paths import EXPERIMENTS_DIR
from tests.reports.records import record, write


@pytest.fixture
def runs(tmp_path):
    made = [
        record(loss, seed, top1 + 0.1 * seed, curve=[[1, 10.0], [240, top1 + 0.1 * seed]])
        for loss, top1 in (("ce", 69.0), ("kd", 70.6), ("wttm", 71.9))
        for seed in range(3)
    ]
    return write(tmp_path / "runs", *made, record("kd", 9, state="failed", reason="a <b> & c"))


def report(*places):
    return report_on([str(place) for place in places], "kdbench report a")


def test_markdown_has_rows_published_values_teachers_comparisons_and_what_is_left_out(runs):
    page = markdown(report(runs))
    assert (
        "| resnet56 -> resnet20 | kd | 70.70 ± 0.10 | 3 | 70.70 ± 0.10 | 70.66 ± 0.24 | 5 | +0.04 |" in page
    )
    assert "| resnet56 | cifar100 | 72.50 | 72.34 | +0.16 |" in page
    assert "| kd - ce | last top-1 | 3 | +1.60 | - | - | - | 0.250 | 0.500 |" in page
    assert "failed: a <b> & c" in page
    assert "Made by `kdbench report a`." in page


def test_latex_is_escaped_and_bold_only_if_asked(runs):
    assert tex("a_b & 5 % -> {x}\\~^#$ ±<") == (
        r"a\_b \& 5 \% $\rightarrow$ \{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}\#\$ $\pm$\textless{}"
    )
    plain, bold = latex(report(runs)), latex(report(runs), bold=True)
    assert "\\textbf" not in plain
    assert bold.count("\\textbf") == 1
    assert r"\textbf{72.00 $\pm$ 0.10}" in bold
    body = [line for line in plain.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {body[0].count(" & ")}
    assert not re.search(r"(?<!\\)[%_]", "\n".join(body))
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert plain.count(rule) == 1


def test_csv_and_parquet_hold_the_same_numbers(runs, tmp_path, capsys):
    assert main([str(runs), "--output", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "rows.csv") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert [row["loss"] for row in rows] == [row["loss"] for row in table] == ["ce", "kd", "wttm"]
    for text, row in zip(rows, table, strict=True):
        assert float(text["last_mean"]) == row["last_mean"]
        assert text["n"] == str(row["n"]) == "3"
    assert table[1]["delta"] == pytest.approx(70.7 - 70.66)
    assert table[1]["omitted_mean"] is None
    every = parquet.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert [(row["row"], row["seed"], row["last_top1"]) for row in every][:2] == [(0, 0, 69.0), (0, 1, 69.1)]
    out = capsys.readouterr().out
    assert "not counted: " in out
    assert "report.html" in out


def test_only_the_forms_asked_for(runs, tmp_path):
    assert main([str(runs), "--output", str(tmp_path / "out"), "--formats", "md,tex"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.tex"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no folder and no table 'nowhere'"),
        (["{runs}", "--formats", "doc"], "--formats=doc; possible: html"),
        (["{runs}", "--against", "dkd"], "--against=dkd: no run has that loss; possible: all, ce, kd, wttm"),
        (["{empty}"], "no finished run of a student in"),
        (["mcmi-lambda"], "table mcmi-lambda has no runs here"),
    ],
)
def test_mistakes_are_said(arguments, words, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main([one.format(runs=runs, empty=tmp_path / "empty") for one in arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_table_by_name_is_its_runs_here_or_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    committed = report_on(["demo"], "kdbench report demo")
    assert committed.title.startswith("Demo: resnet20")
    lines = (EXPERIMENTS_DIR / "demo" / "results.jsonl").read_text().splitlines()
    assert len(committed.runs) == len(lines) - 1
    write(tmp_path / "runs" / "tables" / "demo", record("kd", table="demo"))
    assert len(report_on(["demo"], "kdbench report demo").runs) == 1


def test_the_page_is_one_file_that_asks_for_nothing(runs):
    page = html(report(runs))
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"<(link|img|iframe)|@import|url\(|src=", page)
    assert "default-src 'none'" in page
    assert "a &lt;b&gt; &amp; c" in page


def test_the_same_runs_make_the_same_page(runs):
    assert html(report(runs)) == html(report(runs))


def test_nothing_in_the_data_can_end_its_element():
    text = "</script><!--<script>\u2028&"
    data = embedded({"a": text})
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data) == {"a": text}


def test_names_and_reasons_are_text_in_the_page(tmp_path):
    bad = "<img src=x onerror=alert(1)>"
    made = record(loss="kd", teacher=bad, protocol='"><script>x</script>')
    page = html(report(write(tmp_path / "runs", made, record("kd", 1, state="failed", reason=bad))))
    assert "<img" not in page
    assert "<script>x" not in page


def test_a_page_of_one_row_and_of_runs_without_teacher_or_configuration(tmp_path):
    alone = record("ce", teacher="none")
    del alone["teacher"], alone["config"], alone["results"]["last"]["agreement"], alone["results"]["curve"]
    made = report(write(tmp_path / "runs", alone))
    assert "its configuration is not at hand" in html(made)
    assert "agreement" not in markdown(made)


def test_a_run_on_text_is_told_by_its_own_score(tmp_path):
    made = record("ce", teacher="none", dataset="svamp", task="rationale", scores={"accuracy": 40.0})
    del made["teacher"], made["results"]["best_on_test"]
    made["results"]["best_validation"] = {"epoch": 3, "accuracy": 41.0}
    found = report(write(tmp_path / "runs", made))
    page = markdown(found)
    assert "| last accuracy % | n | best_validation % |" in page
    assert "| 40.00 | 1 | 41.00 |" in page
    assert "last accuracy %" in html(found)


def test_published_numbers_can_be_seen_before_there_is_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["cifar100-dot"]) == 2
    said = capsys.readouterr()
    assert "| kd_dot | 75.12 | 73.77 | 75.55 |" in said.out
    assert "Published (verified, 240 epochs)" in said.out
    assert "has no runs here" in said.err


def test_what_is_neither_folder_nor_table_is_said_with_what_is_like_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["cifar100-sam"]) == 2
    assert "did you mean 'cifar100-same'?" in capsys.readouterr().err
