"""Reports from folders, tables and records, and runs as a DataFrame."""

import sys

import pytest

from kdbench.reports.places import committed_results
from kdbench.reports.report import load_frame, report_on, report_on_table
from kdbench.reports.results_file import read_results
from kdbench.tables.definition import Table, load_table
from tests.reports.records import record, three_losses, write


def test_a_table_by_name_is_its_runs_here_or_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    committed = report_on(["demo"], "kdbench report demo")
    assert committed.title.startswith("Demo: resnet20")
    assert len(committed.runs) == len(read_results(committed_results("demo")).records)
    write(tmp_path / "runs" / "tables" / "demo", record("kd", table="demo"))
    assert len(report_on(["demo"], "kdbench report demo").runs) == 1


def test_table_and_report_have_the_same_rows(tmp_path, monkeypatch):
    """`kdbench table` and `kdbench report` print one table."""
    monkeypatch.chdir(tmp_path)
    results = read_results(committed_results("demo"))
    of_table = report_on_table(load_table("demo", []), results.records, results.command)
    assert of_table.results.lines == report_on(["demo"], "kdbench report demo").results.lines


def test_rows_of_a_table_are_in_the_order_of_its_grid():
    losses = [one.loss for one in report_on(["demo"], "kdbench report demo").series]
    assert losses == load_table("demo", []).losses


def test_the_protocol_is_in_the_title(tmp_path):
    noisy = write(tmp_path / "a", record(protocol="label noise 40 % (seed 0)"))
    assert report_on([str(noisy)], "").title == "resnet20 on cifar100: 1 run (label noise 40 % (seed 0))"
    plain = write(tmp_path / "b", record(seed=1))
    assert report_on([str(noisy), str(plain)], "").title == "resnet20 on cifar100: 2 runs (several protocols)"


def test_a_table_is_compared_with_its_own_published_values(tmp_path):
    grid = Table("A test", "", ["resnet56:resnet20"], ["kd"], [0], name="test")
    assert report_on_table(grid, [record()], "").sources == []
    grid.name = "cifar100-same"
    (source,) = report_on_table(grid, [record()], "").sources
    assert source.table == "cifar100-same"


def test_failed_runs_of_a_table_are_in_no_row():
    grid = Table("A test", "", ["resnet56:resnet20"], ["kd"], [0, 1], name="test")
    records = [record(seed=0), record(seed=1, state="failed")]
    report = report_on_table(grid, records, "", ["kd, seed 1 (its loss is nan)"])
    assert [run.seed for run in report.runs] == [0]
    assert report.missing == ["kd, seed 1 (its loss is nan)"]


def test_a_frame_has_one_row_per_run_and_the_keys_that_differ(tmp_path):
    folder = three_losses(tmp_path / "runs")
    frame = load_frame(folder)
    assert len(frame) == 9
    assert list(frame.loss.unique()) == ["ce", "kd", "wttm"]
    assert frame.groupby("loss").last_top1.mean()["kd"] == pytest.approx(70.7)
    assert frame.loc[frame.loss == "kd", "loss.weights.kd"].tolist() == [0.9] * 3
    assert "schedule.lr" not in frame
    assert "seed" in frame
    assert frame.equals(load_frame([str(folder)]))


def test_scores_on_additional_test_sets_are_columns_of_a_frame(tmp_path):
    scored_twice = record()
    scored_twice["results"]["last"] |= {"vicuna/top1": 50.0}
    assert load_frame(write(tmp_path / "runs", scored_twice))["last_vicuna/top1"].tolist() == [50.0]


def test_a_frame_without_pandas_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'kdbench\[pandas\]'"):
        load_frame(tmp_path)


def test_a_frame_of_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        load_frame(tmp_path / "nowhere")
