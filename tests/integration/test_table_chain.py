"""A chain in a table: each student the teacher of the next one, each seed with teachers of its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kdbench.core.records import read_record
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.reports.aggregate import gather
from kdbench.reports.markdown import markdown
from kdbench.reports.read import Run
from kdbench.reports.report import report_on_table
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import Table, load_table
from kdbench.tables.grid import cells
from kdbench.tables.runner import TableRunner
from kdbench.teachers.store import stored

register()

FAKE = ["dataset=fake", "dataset.train=32", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=1"]
FAKE += ["trainer=cpu"]


@pytest.fixture
def chain(tmp_path, monkeypatch) -> Table:
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    stored("fake4", "resnet8").parent.mkdir(parents=True)
    save_weights(create_model("resnet8", 4), stored("fake4", "resnet8"), {})
    about = {"pairs": ["resnet8:resnet8:resnet14"], "losses": ["kd"], "seeds": [0, 1], "overrides": FAKE}
    return Table("A chain", "Of two.", name="test", output=str(tmp_path / "out"), retries=0, jobs=2, **about)


def worked(table: Table) -> tuple[TableRunner, list[str]]:
    said: list[str] = []
    work = TableRunner(table, cells(table), said.append)
    work.run(Console(quiet=True))
    work.conclude(sum(record["state"] == "done" for record in work.records()), 0.0)
    return work, said


def test_the_grid_has_every_generation_and_those_that_wait_have_no_key(chain):
    grid = cells(chain)
    first, second = ("resnet8:resnet8", "resnet8:resnet8:resnet14")
    assert [(cell.pair, cell.seed) for cell in grid] == [(first, 0), (second, 0), (first, 1), (second, 1)]
    assert [bool(cell.key) for cell in grid] == [True, False, True, False]
    assert grid[1].title == "kd, resnet8 -> resnet8 -> resnet14, seed 0"
    assert cells(replace(chain, pairs=[first, second])) == grid
    with pytest.raises(ValueError, match="or a chain TEACHER:STUDENT:STUDENT"):
        load_table("demo", ["pairs=resnet20:resnet8:"])


@pytest.mark.slow
def test_each_generation_learns_from_the_one_before_of_its_own_seed(chain):
    work, said = worked(chain)
    assert said[-1].startswith("4 done, 0 failed, 0 left of 4"), said
    records = work.records()
    by_place = {(record["names"]["student"], record["seed"]): record for record in records}
    for seed in (0, 1):
        before, after = by_place["resnet8", seed], by_place["resnet14", seed]
        taught_by = Path(after["config"]["teacher"]["checkpoint"])
        assert read_record(taught_by / "record.json")["hashes"] == before["hashes"]
        assert after["teacher"]["seed"] == seed
        assert after["teacher"]["taught"] == "kd of resnet8"
    later = [by_place["resnet14", seed] for seed in (0, 1)]
    assert later[0]["teacher"]["hash"] != later[1]["teacher"]["hash"]
    assert len({record["names"]["teacher"] for record in later}) == 1
    series, left = gather([Run(record, "") for record in records])
    assert [(one.pair.partition("@")[0], len(one.scores)) for one in series] == [
        ("resnet8:resnet8", 2),
        ("resnet8", 2),
    ]
    assert left == []
    page = markdown(report_on_table(chain, records, "kdbench table test"))
    assert "(kd of resnet8) |" in page
    assert "| one for each seed: " in page
    times = {path: path.stat().st_mtime_ns for path in Path(chain.output).rglob("student.safetensors")}
    assert worked(chain)[1][-1].startswith("4 done, 0 failed, 0 left of 4")
    assert times == {
        path: path.stat().st_mtime_ns for path in Path(chain.output).rglob("student.safetensors")
    }


def test_a_generation_without_a_teacher_is_left_and_said(chain):
    failing = replace(chain, overrides=[*FAKE, "schedule.lr=1e30", "schedule.plan=constant"], seeds=[0])
    work, said = worked(failing)
    assert said[-1].startswith("0 done, 1 failed, 1 left of 2"), said
    assert any("left: no student of kd, resnet8 -> resnet8, seed 0 to learn from" in line for line in said)
    assert json.dumps([outcome.state for outcome in work.outcomes]) == '["failed", "left"]'
