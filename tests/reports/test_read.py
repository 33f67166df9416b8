"""Every run is counted once, and everything that is left out is listed with the reason."""

import json
import math

import pytest

from kdbench.reports.read import read
from tests.reports.records import record, write


def reasons(left) -> dict[str, str]:
    return {one.where.rpartition("/")[2]: one.reason for one in left}


def test_runs_of_several_machines_are_read(tmp_path):
    first, second = write(tmp_path / "a", record("ce")), write(tmp_path / "b" / "deep", record("kd"))
    runs, left = read([first, second.parent])
    assert [run.title for run in runs] == [
        "ce, resnet56 -> resnet20, seed 0",
        "kd, resnet56 -> resnet20, seed 0",
    ]
    assert left == []


def test_a_copied_run_counts_once_from_the_place_given_first(tmp_path):
    here, there = write(tmp_path / "here", record(top1=70.0)), write(tmp_path / "there", record(top1=70.5))
    ((run,), left) = read([here, there])
    assert run.record["results"]["last"]["top1"] == 70.0
    assert left[0].where == str(there / "kd-0-0")
    assert left[0].reason == (
        f"the same run as {here / 'kd-0-0'}, which is counted; top-1 is 70.50 % here and 70.00 % there"
    )
    ((run,), _) = read([there, here])
    assert run.record["results"]["last"]["top1"] == 70.5


def test_a_file_within_another_place_is_read_once(tmp_path):
    write(tmp_path / "runs", record())
    runs, left = read([tmp_path, tmp_path / "runs", tmp_path / "runs"])
    assert (len(runs), left) == (1, [])


def test_ce_with_two_teachers_is_two_runs(tmp_path):
    """Their weights are equal, but they belong to two rows."""
    records = [record("ce", teacher=teacher) for teacher in ("resnet56", "resnet110")]
    assert len(read([write(tmp_path, *records)])[0]) == 2


def test_results_file_of_a_table_does_not_repeat_its_run_folders(tmp_path):
    """Lines of a table's own results file are not reported as copies; those of another file are."""
    runs = write(tmp_path / "table" / "runs", record("ce"), record("kd"))
    lines = [json.dumps({"command": "kdbench table t"}), json.dumps(record("ce")), json.dumps(record("kd"))]
    (tmp_path / "table" / "results.jsonl").write_text("\n".join(lines) + "\n")
    runs_read, left = read([tmp_path / "table"])
    assert ([run.where for run in runs_read], left) == ([str(runs / "ce-0-0"), str(runs / "kd-0-1")], [])
    copy = tmp_path / "copy" / "results.jsonl"
    copy.parent.mkdir()
    copy.write_text("\n".join([*lines, json.dumps(record("kd", 1))]))
    runs_read, left = read([copy, tmp_path / "table"])
    assert [run.seed for run in runs_read] == [0, 0, 1]
    assert reasons(left) == {"results.jsonl": "2 of its lines repeat runs that are counted elsewhere"}


def test_lines_of_a_results_file_need_no_schema_and_no_configuration(tmp_path):
    bare = record()
    del bare["schema"], bare["config"]
    (tmp_path / "results.jsonl").write_text(json.dumps({"command": "c"}) + "\n" + json.dumps(bare))
    assert len(read([tmp_path])[0]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"schema": 1, "na', "incomplete or damaged"),
        ("[1]", "not a record"),
        (b"\xff\xfe", "cannot be read"),
        (record(schema=0), "record of schema 0; this version reads schema 1"),
        (record(is_stage=True), "the first stage of other runs"),
        (record(names={"dataset": "d", "teacher": "t"}), "a teacher's training"),
        (record(names={"student": "s"}), "lacks names"),
        (record(hashes=None), "lacks hashes"),
        (record(state="failed", reason="the loss became nan"), "failed: the loss became nan"),
        (record(state="interrupted", reason="Interrupted"), "interrupted: Interrupted"),
        (record(state="running"), "unfinished or still running"),
        (record(results={}), "lacks results.last"),
        (record(top1=math.nan), "results.last.top1 is nan"),
        (record(seconds=None), "lacks seconds"),
    ],
    ids=str,
)
def test_runs_that_are_not_counted_are_listed_with_the_reason(tmp_path, content, message):
    (tmp_path / "run").mkdir()
    text = json.dumps(content) if isinstance(content, dict) else content
    (tmp_path / "run" / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    runs, (one,) = read([tmp_path])
    assert runs == []
    assert one.where == str(tmp_path / "run") or "cannot be read" in message
    assert message in one.reason


def test_a_run_folder_without_a_record_is_listed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(b"")
    assert reasons(read([tmp_path])[1]) == {"run": "started, but has no record.json"}


def test_a_failed_run_that_finished_elsewhere_names_the_other_folder(tmp_path):
    failed = write(tmp_path / "a", record(state="failed", reason="killed"))
    done = write(tmp_path / "b", record())
    (_, (one,)) = read([failed, done])
    assert one.reason == f"failed: killed; finished in {done / 'kd-0-0'}, which is counted"


def test_an_incomplete_line_does_not_affect_the_others(tmp_path):
    lines = [json.dumps({"command": "c"}), json.dumps(record("ce")), json.dumps(record("kd"))[:50]]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    runs, left = read([tmp_path])
    assert len(runs) == 1
    assert left[0].where.endswith("results.jsonl:3")


def test_a_missing_place_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; pass a table"):
        read([tmp_path / "nowhere"])
