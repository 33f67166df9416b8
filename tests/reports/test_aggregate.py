"""Runs that differ only in their seed form one series; all other differences separate series and are named."""

import pytest

from kdbench.reports.aggregate import gather, in_order
from kdbench.reports.read import Run
from tests.reports.records import record, series_of


def test_seeds_form_one_series():
    (one,) = series_of(record(seed=2, top1=72.0), record(seed=0, top1=70.0), record(seed=1, top1=71.0))
    assert (one.scores, one.setting, one.notes) == ([70.0, 71.0, 72.0], "", [])
    assert one.by_seed("top1") == {0: 70.0, 1: 71.0, 2: 72.0}


def of_a_run(seed: int, teacher_seed: int, weights: str):
    """The record of a student whose teacher is itself the student of a run."""
    student = record(seed=seed, teacher="resnet20@run-1a2b3c4d")
    student["teacher"] |= {"seed": teacher_seed}
    return {**student, "hashes": {**student["hashes"], "teacher": weights}}


def test_a_chain_is_one_series_and_students_of_different_runs_are_not():
    (chain,) = series_of(*(of_a_run(seed, seed, f"weights {seed}") for seed in range(3)))
    assert chain.scores == [70.0] * 3
    mixed = series_of(
        *(of_a_run(seed, teacher, f"weights {teacher}") for seed in range(3) for teacher in (7, 8))
    )
    assert [len(one.runs) for one in mixed] == [3, 3], "two teachers, neither a run of the student's own seed"


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"epochs": 30}, {"epochs=240", "epochs=30"}),
        ({"weights": {"ce": 0.1, "kd": 2.0}}, {"loss.weights.kd=0.9", "loss.weights.kd=2.0"}),
        ({"lr": 0.1}, {"schedule.lr=0.05", "schedule.lr=0.1"}),
        ({"protocol": "first 5 %"}, {""}),
        (
            {"hashes": {"recipe": "r", "data": "d" * 64, "teacher": "another"}},
            {"hash.teacher=resnet56", "hash.teacher=another"},
        ),
    ],
    ids=["epochs", "weights", "lr", "protocol", "hashes"],
)
def test_other_settings_are_series_of_their_own_and_are_named(changes, settings):
    series = series_of(record(seed=0), record(seed=1), record(seed=1, **changes))
    assert sorted(len(one.runs) for one in series) == [1, 2]
    assert {one.setting for one in series} == settings


def test_places_of_data_and_output_are_no_setting():
    assert len(series_of(record(seed=0), record(seed=1, path="/elsewhere"))) == 1


def test_threads_answers_and_cohorts_are_notes():
    stored = {"storage": "float16"}
    (one,) = series_of(
        record(seed=0),
        record(seed=1, threads=2, cohort=["a", "b"]),
        record(seed=2, teacher="resnet56")
        | {"teacher": {"name": "resnet56", "top1": 72.5, "answers": stored}},
    )
    assert one.notes == [
        "threads differ: 1, 2",
        "teacher outputs differ: live, stored (float16)",
        "times are not comparable: trained alone, trained in a cohort",
    ]


def test_parameters_at_test_time_and_additional_views_are_notes():
    (one,) = series_of(record("mlkd", parameters={"student": 1000, "at_test": 1500}))
    assert one.notes == ["1,500 parameters at test time, the student has 1,000", "trains on two views"]


def test_the_same_seed_twice_is_separated_by_commit_or_left_out():
    """Runs before and after a change of an objective have the same configuration."""
    old = [record(seed=seed) for seed in (0, 1)]
    new = [
        record(seed=seed, commit="fedcba987654", hashes={**one["hashes"], "recipe": f"v2-{seed}"})
        for seed, one in enumerate(old)
    ]
    series = series_of(*old, *new)
    assert {one.setting for one in series} == {"commit=0123456789ab", "commit=fedcba987654"}
    bare = [{key: value for key, value in one.items() if key != "config"} for one in (old[0], new[0])]
    bare[1]["commit"] = bare[0]["commit"]
    series, left = gather([Run(one, f"run {place}") for place, one in enumerate(bare)])
    assert [len(one.runs) for one in series] == [1]
    assert left[0].where == "run 1"
    assert left[0].reason.startswith("same names and seed as run 0, which is counted, but another recipe")


def test_records_without_a_configuration_are_separated_by_epochs():
    bare = [record(seed=seed, epochs=epochs) for seed, epochs in ((0, 2), (1, 2), (0, 30))]
    for one in bare:
        del one["config"]
    series = series_of(*bare)
    assert [(one.epochs, len(one.runs), one.setting) for one in series] == [
        (2, 2, "epochs=2"),
        (30, 1, "epochs=30"),
    ]
    assert series[0].notes == ["configuration not recorded"]


def test_a_run_without_a_teacher_has_no_agreement():
    alone = record("ce", teacher="none")
    del alone["teacher"], alone["results"]["last"]["agreement"]
    assert series_of(alone)[0].agreement is None


def test_series_are_in_the_order_of_the_table_or_sorted_with_ce_first():
    series = series_of(record("wttm"), record("kd"), record("ce"), record("kd", teacher="resnet110"))
    names = [(one.teacher, one.loss) for one in in_order(series)]
    assert names == [("resnet110", "kd"), ("resnet56", "ce"), ("resnet56", "kd"), ("resnet56", "wttm")]
    ordered = in_order(series, ["resnet56:resnet20", "resnet110:resnet20"], ["kd", "wttm", "ce"])
    assert [one.loss for one in ordered] == ["kd", "wttm", "ce", "kd"]


def test_the_best_epoch_is_the_one_that_is_recorded():
    (one,) = series_of(record(seed=0, top1=70.0, best=71.0), record(seed=1, top1=71.0, best=72.0))
    assert (one.best_key, one.best, one.best_on_test) == ("best_on_test", [71.0, 72.0], [71.0, 72.0])
    held_out = record()
    held_out["results"]["best_validation"] = held_out["results"].pop("best_on_test")
    (one,) = series_of(held_out)
    assert (one.best_key, one.best, one.best_on_test) == ("best_validation", [70.0], [])
