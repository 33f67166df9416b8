"""Runs that differ in their seed alone are a row; what else they differ in is never mixed, and said."""

import pytest

from kdbench.reports.aggregate import gather
from kdbench.reports.read import Run
from tests.reports.records import record


def rows(*records: dict) -> list:
    return gather([Run(one, f"run {place}") for place, one in enumerate(records)])[0]


def test_seeds_are_one_row():
    (one,) = rows(record(seed=2, top1=72.0), record(seed=0, top1=70.0), record(seed=1, top1=71.0))
    assert (one.row.scores, one.setting, one.notes) == ([70.0, 71.0, 72.0], "", [])
    assert one.scores("top1") == {0: 70.0, 1: 71.0, 2: 72.0}


def taught_by_a_run(seed: int, teacher_seed: int, weights: str):
    """A student of a student: `made.record` with a teacher that is itself a run."""
    made = record(seed=seed, teacher="resnet20@run-1a2b3c4d")
    made["teacher"] |= {"seed": teacher_seed}
    return {**made, "hashes": {**made["hashes"], "teacher": weights}}


def test_a_chain_is_one_row_and_students_of_different_runs_are_not():
    (chain,) = rows(*(taught_by_a_run(seed, seed, f"weights {seed}") for seed in range(3)))
    assert chain.row.scores == [70.0] * 3
    mixed = rows(
        *(taught_by_a_run(seed, teacher, f"weights {teacher}") for seed in range(3) for teacher in (7, 8))
    )
    assert [len(one.runs) for one in mixed] == [3, 3], (
        "two teachers, and none of them a run of the student's own seed"
    )


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"epochs": 30}, {"epochs=240", "epochs=30"}),
        ({"weights": {"ce": 0.1, "kd": 2.0}}, {"loss.weights.kd=0.9", "loss.weights.kd=2.0"}),
        ({"lr": 0.1}, {"schedule.lr=0.05", "schedule.lr=0.1"}),
        ({"protocol": "first 5 %"}, {"", "first 5 %"}),
        (
            {"hashes": {"recipe": "r", "data": "d" * 64, "teacher": "another"}},
            {"hash.teacher=resnet56", "hash.teacher=another"},
        ),
    ],
    ids=["epochs", "weights", "lr", "protocol", "hashes"],
)
def test_settings_are_rows_of_their_own_and_say_why(changes, settings):
    found = rows(record(seed=0), record(seed=1), record(seed=1, **changes))
    assert sorted(len(one.runs) for one in found) == [1, 2]
    assert {one.setting for one in found} == settings


def test_where_data_are_and_where_output_goes_is_no_setting():
    assert len(rows(record(seed=0), record(seed=1, path="/elsewhere"))) == 1


def test_threads_answers_and_cohorts_are_notes():
    stored = {"storage": "float16"}
    (one,) = rows(
        record(seed=0),
        record(seed=1, threads=2, cohort=["a", "b"]),
        record(seed=2, teacher="resnet56")
        | {"teacher": {"name": "resnet56", "top1": 72.5, "answers": stored}},
    )
    assert one.notes == [
        "threads differ: 1, 2",
        "the teacher's answers differ: live, stored (float16)",
        "times differ in kind: alone, in a cohort",
    ]


def test_what_answers_at_test_time_and_further_views_are_notes():
    (one,) = rows(record("mlkd", parameters={"student": 1000, "at_test": 1500}))
    assert one.notes == ["answers with 1,500 parameters, the student has 1,000", "trains on two views"]


def test_the_same_seed_twice_is_told_apart_by_commit_or_left_out():
    """Two versions of an objective have one configuration."""
    old = [record(seed=seed) for seed in (0, 1)]
    new = [
        record(seed=seed, commit="fedcba987654", hashes={**one["hashes"], "recipe": f"v2-{seed}"})
        for seed, one in enumerate(old)
    ]
    found = rows(*old, *new)
    assert {one.setting for one in found} == {"commit=0123456789ab", "commit=fedcba987654"}
    bare = [{key: value for key, value in one.items() if key != "config"} for one in (old[0], new[0])]
    bare[1]["commit"] = bare[0]["commit"]
    found, left = gather([Run(one, f"run {place}") for place, one in enumerate(bare)])
    assert [len(one.runs) for one in found] == [1]
    assert left[0].where == "run 1"
    assert left[0].reason.startswith("another recipe than run 0, which is counted")


def test_records_without_a_configuration_are_rows_by_what_they_say():
    bare = [record(seed=seed, epochs=epochs) for seed, epochs in ((0, 2), (1, 2), (0, 30))]
    for one in bare:
        del one["config"]
    found = rows(*bare)
    assert [(one.row.epochs, len(one.runs), one.setting) for one in found] == [
        (2, 2, "epochs=2"),
        (30, 1, "epochs=30"),
    ]
    assert found[0].notes == ["its configuration is not at hand"]


def test_a_run_without_a_teacher(tmp_path):
    alone = record("ce", teacher="none")
    del alone["teacher"], alone["results"]["last"]["agreement"]
    assert rows(alone)[0].row.agreement is None
