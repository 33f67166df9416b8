"""Tables: aggregation on made-up records, and one small real table."""

import json

import pytest
import torch

from kdbench.config import EXPERIMENTS_DIR, register
from kdbench.models import create_model, save_weights
from kdbench.report.grid import cells, found, load_table
from kdbench.report.published import published_for
from kdbench.report.table import main, markdown, summarise

register()


def record(loss: str, top1: float, state: str = "done") -> dict:
    return {
        "names": {"teacher": "a", "student": "b", "loss": loss},
        "state": state,
        "results": {"last": {"top1": top1, "agreement": 50.0}, "best_on_test": {"top1": top1 + 1}},
        "seconds": 10.0,
        "teacher": {"name": "a", "top1": 60.0},
        "machine": {"processor": "p", "cpus": 2},
        "threads": 1,
        "versions": {"torch": "t"},
        "commit": "c",
    }


def test_mean_std_and_n_over_finished_seeds():
    records = [record("ce", 10), record("kd", 20), record("ce", 14), record("ce", 99, "failed")]
    ce, kd = summarise(records)
    assert (ce.mean, ce.std, len(ce.top1), ce.best_on_test) == (12, pytest.approx(8**0.5), 2, 13)
    assert (kd.mean, kd.std, len(kd.top1)) == (20, None, 1)
    page = markdown(load_table("demo", []), records, "kdbench table demo")
    assert "| a -> b | ce | 12.00 ± 2.83 | 2 | 13.00 | 50.0 | 10 |" in page
    assert "| a -> b | kd | 20.00 | 1 |" in page
    assert "Teacher a: 60.00 % test top-1." in page
    assert "Made by `kdbench table demo` on p, 2 CPUs" in page


def test_a_loss_that_answers_with_more_than_the_student_is_said():
    records = [record("kd", 20), {**record("simkd", 30), "parameters": {"student": 1000, "at_test": 1500}}]
    page = markdown(load_table("demo", []), records, "kdbench table demo")
    assert "simkd answers with 1,500 parameters, the student has 1,000." in page
    assert "kd answers" not in page.replace("simkd answers", "")


@pytest.mark.parametrize(
    "page", sorted(EXPERIMENTS_DIR.glob("*/README.md")), ids=lambda page: page.parent.name
)
def test_committed_pages_are_what_their_records_say(page):
    """A number in a page that no record has, or a page older than its table's words, fails here."""
    command, *records = [
        json.loads(line) for line in (page.parent / "results.jsonl").read_text().splitlines()
    ]
    assert page.read_text() == markdown(load_table(page.parent.name, []), records, command["command"])


def test_readme_shows_a_committed_page():
    page = (EXPERIMENTS_DIR / "first-look" / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert "\n".join(rows) in (EXPERIMENTS_DIR.parent / "README.md").read_text()


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


def test_what_was_published_stands_beside_its_row():
    pair = "vgg13@mcmi-0.2:vgg8"
    names = {"teacher": "vgg13@mcmi-0.2", "student": "vgg8", "dataset": "cifar100"}
    teacher = {"name": names["teacher"], "top1": 74.5, "nll": 1.0, "cmi": 0.25}
    made = [
        {**record(loss, 70), "names": {**names, "loss": loss}, "teacher": teacher}
        for loss in ("kd", "at", "wttm")
    ]
    page = markdown(load_table("mcmi-lambda", []), made, "kdbench table mcmi-lambda")
    rows = [line for line in page.splitlines() if line.startswith("| vgg13@mcmi-0.2 -> vgg8")]
    ends = [line.rsplit("|", 2)[1].strip() for line in rows]
    assert ends == ["73.91 (n = 1; ce 0.2, kd 0.8)", "71.98 (n = 1)", ""], pair
    assert "| published % (best epoch on test) |" in page
    assert "Published (verified): the lambda sweep of github.com/iclr2024mcmi/ICLRMCMI" in page
    assert (
        "Teacher vgg13@mcmi-0.2: 74.50 % test top-1, cross-entropy on test 1.0000 nats, CMI on the training images "
        "0.2500 nats." in page
    )


@pytest.mark.parametrize(
    "file", sorted(EXPERIMENTS_DIR.glob("*/published.yaml")), ids=lambda file: file.parent.name
)
def test_published_values_are_of_cells_of_their_table(file):
    table, published = load_table(file.parent.name, []), published_for(file.parent.name)
    keys = [(value.dataset, value.pair, value.loss, value.protocol) for value in published.values]
    assert len(set(keys)) == len(keys)
    for value in published.values:
        assert value.pair in table.pairs
        assert value.loss in table.losses
        assert 0 < value.mean < 100


def test_variants_and_ensembles_are_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    from kdbench.teacher.store import stored

    for seed, variant in enumerate(("a", "b")):
        torch.manual_seed(seed)
        path = stored("cifar100", f"resnet20@{variant}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(create_model("resnet20", 100), path, {})
    pairs = "pairs=resnet20@a:resnet8,resnet20@b:resnet8,resnet20@a+resnet20@b:resnet8"
    table = load_table("demo", [pairs, "losses=kd", "seeds=0"])
    table.overrides.remove("teacher.checkpoint=shipped")
    grid = cells(table)
    assert len({cell.key for cell in grid}) == 3
    assert "teacher.members=[resnet20@a,resnet20@b]" in grid[2].overrides
    table.pairs = ["resnet20@mcmi-0.5:resnet8", "vgg13:resnet8"]
    with pytest.raises(ValueError, match=r"(?s)teacher_loss.weight=0\.5.*teacher=vgg13 schedule=cifar240"):
        cells(table)


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
