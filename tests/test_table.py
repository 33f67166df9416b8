"""Tables: aggregation on made-up records, and one small real table."""

import json

import pytest
import torch

from kdbench.config import register
from kdbench.models import create_model, save_weights
from kdbench.report.grid import Cell, cells, found, load_table
from kdbench.report.table import main, markdown, summarise

register()


def record(top1: float, state: str = "done") -> dict:
    results = {"last": {"top1": top1, "agreement": 50.0}, "best_on_test": {"top1": top1 + 1}}
    return {"state": state, "results": results, "seconds": 10.0}


def cell(loss: str, seed: int) -> Cell:
    return Cell("a:b", loss, seed, (), f"{loss}{seed}")


def test_mean_std_and_n_over_finished_seeds():
    grid = [cell(loss, seed) for loss in ("ce", "kd") for seed in range(3)]
    records = {"ce0": record(10), "ce1": record(14), "ce2": record(99, "failed"), "kd1": record(20)}
    ce, kd = summarise(grid, records)
    assert (ce.mean, ce.std, len(ce.top1), ce.best_on_test) == (12, pytest.approx(8**0.5), 2, 13)
    assert (kd.mean, kd.std, len(kd.top1)) == (20, None, 1)
    page = markdown(load_table("demo", []), [ce, kd], {"a": 60.0}, "footer")
    assert "| a -> b | ce | 12.00 ± 2.83 | 2 | 13.00 | 50.0 | 10 |" in page
    assert "| a -> b | kd | 20.00 | 1 |" in page
    assert "Teacher a: 60.00 % test top-1." in page


def test_the_demo_is_the_promised_grid():
    table = load_table("demo", [])
    assert len(cells(table)) == 14
    assert {cell.pair for cell in cells(table)} == {"resnet20:resnet8"}
    assert "not a ranking" in table.caption


def test_cells_are_chosen_on_the_command_line():
    table = load_table(
        "demo", ["losses=ce,kd", "seeds=3", "pairs=resnet20:resnet14", "schedule.epochs=1", "jobs=1"]
    )
    assert [(c.pair, c.loss, c.seed) for c in cells(table)] == [
        ("resnet20:resnet14", loss, 3) for loss in ("ce", "kd")
    ]
    assert "schedule.epochs=1" in table.overrides


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demmo"], ["there is no table 'demmo'", "did you mean 'demo'"]),
        (["demo", "losses=nope"], ["no loss=nope"]),
        (["demo", "seeds=x"], ["seeds", "'x'"]),
        (["demo", "pairs=resnet20"], ["TEACHER:STUDENT"]),
        (["demo", "schedule.epohcs=2"], ["did you mean 'epochs'"]),
        (["demo", "kd"], ["'kd' is not KEY=VALUE"]),
        (["demo", "seeds=0,0"], ["seeds=0,0", "once"]),
        (["demo", "seed=3"], ["seeds=..."]),
        (["demo", "jobs=0"], ["jobs must be at least 1"]),
        (["demo", "pairs=none:resnet8"], ["TEACHER:STUDENT"]),
        ([], ["kdbench table NAME", "demo"]),
    ],
)
def test_mistakes_are_said_before_anything_runs(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert not list(tmp_path.iterdir())


def test_runs_of_another_teacher_are_not_taken_for_these(tmp_path):
    """The recipe is the same; the file with the teacher's weights is not."""
    torch.manual_seed(0)
    save_weights(create_model("resnet20", 100), tmp_path / "other.safetensors", {})
    shipped = cells(load_table("demo", []))
    other = cells(load_table("demo", [f"teacher.checkpoint={tmp_path / 'other.safetensors'}"]))
    assert not {cell.key for cell in shipped} & {cell.key for cell in other}


def test_a_small_table_runs_once_and_reports_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [
        "demo",
        "losses=ce,kd",
        "seeds=0",
        "schedule.epochs=1",
        "schedule.batch_size=500",
        "evaluate_every=1",
    ]
    assert main(small) == 0
    out = capsys.readouterr().out
    assert "2 done, 0 failed of 2" in out
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert page.count("| resnet20 -> resnet8 |") == 2
    assert (tmp_path / "runs/tables/demo/table.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")}
    assert main(small) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")} == before

    failing = [*small, "schedule.lr=1e30", "schedule.plan=constant"]
    assert main(failing) == 1
    out = capsys.readouterr().out
    assert "0 done, 2 failed of 2" in out
    assert "not finite" in out
    assert len(found(load_table("demo", []))) == 4
    assert main([*small, "losses=ce"]) == 0
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert "losses=ce` on " in page, "the page says the command that made it"
    assert json.loads(next(tmp_path.rglob("record.json")).read_text())["table"] == "demo"
