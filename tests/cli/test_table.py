"""`kdbench table` on the command line."""

import json

import pytest

from kdbench.cli.table import main
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table
from kdbench.tables.grid import records_by_key

register()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
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
        (["demo", "teachers=yes"], ["teachers=yes; possible: train, refuse"]),
        (["demo", "retries=-1"], ["retries=-1"]),
        (["mcmi-fewshot", "variants=6%"], ["there is no variant '6%'", "0.5%, 1%, 10%"]),
        (["demo", "variants=5%"], ["there is no variant '5%'"]),
        (["demo", "pairs=:resnet8"], ["TEACHER:STUDENT"]),
        ([], ["kdbench table NAME", "demo"]),
    ],
)
def test_mistakes_are_explained_before_anything_runs(arguments, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in message
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_small_table_runs_once_and_reports_failures(tmp_path, monkeypatch, capsys):
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
    assert "2 done, 0 failed, 0 left of 2" in out
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert page.count("| resnet20 -> resnet8 |") == 2
    assert (tmp_path / "runs/tables/demo/table.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")}
    assert main(small) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")} == before

    failing = [*small, "schedule.lr=1e30", "schedule.plan=constant", "retries=0"]
    assert main(failing) == 1
    out = capsys.readouterr().out
    assert "0 done, 2 failed, 0 left of 2" in out
    assert "not finite" in out
    assert len(records_by_key(load_table("demo", []))) == 4
    assert main([*small, "losses=ce"]) == 0
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert "losses=ce`." in page, "the page names the command that made it"
    assert json.loads(next(tmp_path.rglob("record.json")).read_text())["table"] == "demo"
