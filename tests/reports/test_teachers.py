"""Teachers of a report: one for each file of weights, next to the published network of their name."""

import pytest

from kdbench.reports.teachers import teachers_of
from tests.reports.records import record, series_of


def test_a_teacher_has_the_published_network_of_its_name():
    (one,) = teachers_of(series_of(record(seed=0), record(seed=1)))
    assert (one.name, one.score, one.published, one.gap) == ("resnet56", 72.5, 72.34, pytest.approx(0.16))
    (variant,) = teachers_of(series_of(record(teacher="resnet56@mcmi-0.15")))
    assert (variant.published, variant.gap) == (None, None)
    (other,) = teachers_of(series_of(record(dataset="cifar10")))
    assert other.published is None


def test_two_files_of_one_name_are_two_teachers():
    another = record("wttm")
    another["teacher"] = {**another["teacher"], "hash": "b" * 64, "top1": 70.0}
    teachers = teachers_of(series_of(record(), another))
    assert [(one.score, one.weights) for one in teachers] == [(72.5, "resnet56"), (70.0, "bbbbbbbb")]


def test_a_teacher_is_one_sentence():
    run = record()
    run["teacher"] = {"name": "resnet56", "top1": 70.64, "epoch": 30, "hash": "a", "nll": 1.0, "cmi": 0.25}
    (one,) = teachers_of(series_of(run))
    assert one.sentence == (
        "Teacher resnet56: 70.64 % test top-1, cross-entropy on test 1.0000 nats, CMI on the training images 0.2500 "
        "nats; 30 epochs; published 72.34 % after 240 epochs, here -1.70."
    )


def test_the_teachers_of_a_chain_are_one_teacher_with_several_weights():
    records = [record(seed=seed, teacher="resnet20@run-1a2b3c4d") for seed in (0, 1)]
    for seed, one in enumerate(records):
        one["teacher"] |= {
            "seed": seed,
            "hash": f"weights {seed}",
            "top1": 70.0 + seed,
            "taught": "kd of resnet20",
        }
        one["hashes"]["teacher"] = f"weights {seed}"
    (one,) = teachers_of(series_of(*records))
    assert (one.scores, one.weights) == ([70.0, 71.0], "2 networks")
    assert one.sentence == (
        "Teacher resnet20@run-1a2b3c4d (kd of resnet20): 70.50 % test top-1, one for each seed: 70.50 ± 0.71."
    )


def test_additional_test_sets_do_not_repeat_the_teacher():
    one = record()
    one["results"]["last"] |= {"vicuna/top1": 50.0}
    assert [teacher.dataset for teacher in teachers_of(series_of(one))] == ["cifar100"]


def test_runs_without_a_teacher_have_none():
    alone = record("ce", teacher="none")
    del alone["teacher"]
    assert teachers_of(series_of(alone)) == []
