"""Which series are compared within seeds, and which p values are corrected together."""

import pytest

from kdbench.reports.paired_tests import comparisons
from kdbench.reports.statistics import holm
from tests.reports.records import record, series_of


def compare(*records: dict, **options: str) -> list:
    return comparisons(series_of(*records), **options)


def grid(*losses: str, teachers=("resnet56",), **changes) -> list[dict]:
    """Accuracies that differ by 0.1 points per loss and 0.5 per teacher, with a small spread over the seeds."""
    return [
        record(
            loss,
            seed,
            70 + 0.1 * place + 0.5 * rank + 0.013 * seed * (place + rank),
            teacher=teacher,
            **changes,
        )
        for rank, teacher in enumerate(teachers)
        for place, loss in enumerate(losses)
        for seed in range(3)
    ]


def test_losses_are_compared_with_ce_by_default():
    assert [(one.first, one.second) for one in compare(*grid("ce", "kd", "wttm"))] == [
        ("ce", "kd"),
        ("ce", "wttm"),
    ]
    comparisons_found = compare(*grid("ce", "kd", "wttm"), against="kd")
    assert [(one.first, one.second) for one in comparisons_found] == [("kd", "ce"), ("kd", "wttm")]
    assert len(compare(*grid("ce", "kd", "wttm"), against="all")) == 3
    (one,) = compare(*grid("kd", "wttm"))
    assert (one.first, one.second, one.family) == ("kd", "wttm", "resnet56 -> resnet20, cifar100, 240 epochs")
    assert (one.result.n, one.result.mean) == (3, pytest.approx(0.1 + 0.013))


def test_teachers_are_compared_with_each_other_under_one_loss():
    teachers = ("resnet56", "resnet56@mcmi-0", "resnet56@mcmi-0.15")
    comparisons_found = compare(*grid("kd", teachers=teachers))
    assert [(one.first, one.second) for one in comparisons_found] == [
        (teachers[0], teachers[1]),
        (teachers[0], teachers[2]),
        (teachers[1], teachers[2]),
    ]
    assert {one.family for one in comparisons_found} == {"kd, student resnet20, cifar100, 240 epochs"}
    assert [one.t_holm for one in comparisons_found] == holm([one.result.t for one in comparisons_found])
    assert comparisons_found[0].t_holm > comparisons_found[0].result.t


def test_the_same_weights_under_two_names_of_a_teacher_are_no_comparison():
    assert compare(*grid("ce", teachers=("resnet56", "resnet110"))) == []


def test_different_settings_are_never_compared():
    assert compare(*grid("ce"), *grid("kd", epochs=30)) == []
    assert compare(*grid("ce"), *grid("kd", protocol="first 5 %")) == []
    assert compare(*grid("ce"), *grid("kd", lr=0.1)) == []
    assert compare(*grid("ce"), *grid("kd", student="resnet32")) == []


def test_weights_of_a_loss_are_named():
    comparisons_found = compare(*grid("ce", "kd"), *grid("kd", weights={"ce": 0.1, "kd": 2.0}))
    assert [one.second for one in comparisons_found] == [
        "kd (loss.weights.kd=0.9)",
        "kd (loss.weights.kd=2.0)",
    ]


def test_the_recall_of_omitted_classes_is_a_family_of_its_own():
    records = [
        record(
            "kd",
            seed,
            60.0,
            teacher=teacher,
            protocol="without class 9",
            scores={"omitted": rank + 0.1 * seed},
        )
        for rank, teacher in enumerate(("resnet56", "resnet56@mcmi-0.15"))
        for seed in range(3)
    ]
    top1, omitted = compare(*records)
    assert (top1.measure, omitted.measure) == ("last top-1", "recall of omitted classes")
    assert omitted.result.mean == pytest.approx(1.0)
    assert top1.result.mean == 0.0


def test_only_common_seeds_are_compared():
    (one,) = compare(*grid("ce"), *grid("kd")[:2])
    assert one.result.n == 2
