"""Tables under faults: missing teachers, unreadable and old records, kills of jobs and of the command, two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdbench.cli.table import main
from kdbench.core.errors import RunError
from kdbench.core.records import SCHEMA
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import Table, load_table
from kdbench.tables.grid import cells, records_by_key
from kdbench.tables.runner import TableRunner
from kdbench.teachers.store import stored
from kdbench.training.run_folder import RunFolder

register()

FAKE = ["dataset=fake", "dataset.train=96", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=2"]
FAKE += ["trainer=cpu", "log_every=3", "evaluate_every=2"]


def table(folder: Path, **about) -> Table:
    given = {"pairs": ["resnet8:resnet8"], "losses": ["kd"], "seeds": [0], "overrides": FAKE, **about}
    return Table("A test", "Of faults.", name="test", output=str(folder), **given)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def work(given: Table) -> tuple[TableRunner, list[str]]:
    said: list[str] = []
    return TableRunner(given, cells(given), said.append), said


# ---- teachers


def test_the_teachers_that_are_missing_come_first_and_those_that_others_start_from_before_them(
    tmp_path, store
):
    pairs = ["resnet8@mcmi-0.1:resnet8", "resnet8@mcmi-0.1+resnet14:resnet8", "resnet20:resnet8"]
    given = table(
        tmp_path, pairs=pairs, overrides=[*FAKE, "dataset.classes=100"], teacher_overrides=["seed=1"]
    )
    ready, said = work(given)
    assert [one.name for one in ready.teachers] == ["resnet8", "resnet8@mcmi-0.1", "resnet14", "resnet20"]
    assert all({"threads=1", "trainer=cpu", "seed=1"} <= set(one.overrides) for one in ready.teachers)
    assert [one.can_start for one in ready.teachers] == [True, False, True, True]
    ready.dry_run()
    assert any("teachers that are missing are trained first" in line and "resnet14" in line for line in said)
    assert "nothing was started" in said[-1]
    assert not list(tmp_path.rglob("*.txt"))
    given.teachers = "refuse"
    with pytest.raises(ValueError, match="kdbench train-teacher dataset=fake"):
        cells(given)


def test_a_checkpoint_that_is_given_and_not_there_is_a_mistake_and_trains_nothing(tmp_path, store):
    with pytest.raises(ValueError, match="nowhere"):
        cells(table(tmp_path, overrides=[*FAKE, "teacher.checkpoint=/nowhere.pth"]))


def test_a_mistake_for_a_missing_teacher_is_said_without_a_traceback(tmp_path, store, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["demo", "pairs=resnet14:resnet8", "losses=kd", "teacher_overrides=nonsense=1"]
    assert main(words) == 2
    assert "kdbench: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_trains_its_teacher_once_and_then_its_students(tmp_path, store):
    quick = ["schedule=quick", "schedule.epochs=1", "dataset.train=64"]
    ready, said = work(table(tmp_path, losses=["ce", "kd"], teacher_overrides=quick))
    from rich.console import Console

    ready.run(Console())
    ready.conclude(2, 1.0)
    assert stored("fake4", "resnet8").is_file()
    assert said[-1].startswith("2 done, 0 failed, 0 left of 2")
    again, said = work(table(tmp_path, losses=["ce", "kd"], teacher_overrides=quick))
    assert not again.teachers
    again.run(Console())
    assert "2 runs, 0 to do" in said[0]


# ---- what earlier runs left


DEMO = ["demo", "losses=ce,kd", "seeds=0", "jobs=1", "cohort=1", "cache=false"]
DEMO += [
    "schedule.epochs=2",
    "schedule.batch_size=50",
    "dataset.subset.fraction=0.2",
    "evaluate_every=2",
    "log_every=2",
]


def left(folder: Path, text: str, name: str = "one") -> RunFolder:
    path = folder / "runs" / name
    path.mkdir(parents=True)
    (path / "record.json").write_text(text)
    return RunFolder(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 1}',
        '{"schema": 1, "names": {"student": "a"}, "teacher": 3}',
        '{"schema": 1, "sta',
        "",
        "\x00\xff",
        "[]",
        "null",
        '{"schema": 0}',
        '{"schema": 99}',
    ],
)
def test_a_record_that_cannot_be_read_is_said_and_counts_nothing(tmp_path, text):
    left(tmp_path, text)
    errors: list[ValueError] = []
    assert records_by_key(load_table("demo", [f"output={tmp_path}"]), errors.append) == {}
    assert len(errors) == 1
    assert "one/record.json" in str(errors[0])


def test_half_a_record_is_written_anew_and_one_of_another_version_is_left_alone(tmp_path, capsys):
    assert left(tmp_path, '{"schema": 1, "sta', "half").record() is None
    assert "the run writes it again" in capsys.readouterr().out
    with pytest.raises(RunError, match=rf"another version of kdbench \(schema 0, here {SCHEMA}\); move"):
        left(tmp_path, '{"schema": 0}', "old").record()


def test_an_unreadable_state_is_a_failure_with_a_way_out(tmp_path):
    folder = left(tmp_path, "{}")
    (folder.path / "state.pt").write_bytes(b"half of one")
    with pytest.raises(RunError, match="overwrite=true"):
        folder.load_state()


# ---- kills, with real processes


def start(output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "kdbench", "table", *DEMO, f"output={output}", *more]
    log = open(output.with_suffix(".out"), "a")  # noqa: SIM115 - the process's
    return subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def said_by(output: Path) -> str:
    return " ".join(output.with_suffix(".out").read_text().split())


def children(process: subprocess.Popen) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in text.split()]


def until(condition, process: subprocess.Popen | None = None, seconds: float = 300):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, "it ended before"
        time.sleep(0.05)
    return value


def steps(output: Path) -> int:
    """Lines of all curves: how far the runs have come."""
    return sum(len(path.read_text().splitlines()) for path in output.glob("runs/*/metrics.jsonl"))


def attempts(output: Path) -> list[dict]:
    path = output / "logs" / "jobs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def done(output: Path) -> int:
    records = [path.read_text() for path in output.glob("runs/*/record.json")]
    return sum(json.loads(text)["state"] == "done" for text in records)


def results(output: Path) -> dict[str, float]:
    """Of each run, by its folder: what a report is made of."""
    found = {}
    for path in output.glob("runs/*/record.json"):
        record = json.loads(path.read_text())
        found[path.parent.name] = (
            record["state"],
            record["results"]["last"],
            record["results"]["best_on_test"],
        )
    return found


@pytest.mark.slow
def test_a_killed_job_is_tried_again_from_its_checkpoint_and_its_end_is_in_the_record(tmp_path):
    output = tmp_path / "t"
    process = start(output, "losses=kd", "save_every=0")
    until(lambda: list(output.glob("runs/*/state.pt")), process)
    (job,) = children(process)
    os.kill(job, signal.SIGKILL)
    assert process.wait(timeout=300) == 0, said_by(output)
    assert "killed by SIGKILL; starting attempt 2" in said_by(output)
    assert "1 done, 0 failed, 0 left of 1" in said_by(output)
    (record,) = (json.loads(path.read_text()) for path in output.glob("runs/*/record.json"))
    assert [(one["state"], one["reason"]) for one in record["sessions"]] == [("failed", "killed by SIGKILL")]
    assert [one["state"] for one in attempts(output)] == ["failed", "done"]


@pytest.mark.slow
def test_two_tables_at_once_train_no_run_twice_and_end_with_the_same_table(tmp_path):
    output = tmp_path / "t"
    both = [start(output, "losses=ce,kd,ttm") for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0], said_by(output)
    assert [one["state"] for one in attempts(output)] == ["done"] * 3
    assert len({one["title"] for one in attempts(output)}) == 3
    assert said_by(output).count("3 done, 0 failed, 0 left of 3") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_table_that_is_asked_to_stop_says_what_is_left(tmp_path, number, code):
    output = tmp_path / "t"
    process = start(output)
    until(lambda: steps(output) > 2, process)
    process.send_signal(number)
    assert process.wait(timeout=120) == code, said_by(output)
    assert "0 done, 0 failed, 2 left of 2" in said_by(output)
    (record,) = (json.loads(path.read_text()) for path in output.glob("runs/*/record.json"))
    assert record["state"] == "interrupted"
    assert "with a checkpoint" in record["reason"]


@pytest.mark.slow
def test_twelve_runs_survive_kills_of_jobs_and_of_the_command(tmp_path):
    """Three jobs and twice the command are killed; the report has the numbers of an undisturbed table."""
    grid = ["losses=ce,kd,ttm,wttm,dkd,dist", "seeds=0,1", "cohort=3", "jobs=2", "retries=3", "save_every=0"]
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert start(calm, *grid).wait(timeout=900) == 0, said_by(calm)
    kills = {"job": 0, "command": 0}
    process = start(rough, *grid)
    for what, after in (("job", 4), ("job", 16), ("command", 30), ("job", 44), ("command", 60)):
        until(lambda after=after: steps(rough) > after, process, 600)
        if what == "job":
            for number in children(process)[:1]:
                os.kill(number, signal.SIGKILL)
                kills["job"] += 1
            continue
        process.kill()
        process.wait()
        kills["command"] += 1
        process = start(rough, *grid)
    assert process.wait(timeout=900) == 0, said_by(rough)
    assert kills == {"job": 3, "command": 2}
    assert results(rough) == results(calm)
    assert len(results(rough)) == 12
    print(
        f"\n{kills} and {len(attempts(rough))} attempts, {len(attempts(calm))} undisturbed: the same 12 results"
    )
