"""Which columns the tables of a report have."""

import pytest

from kdbench.reports.aggregate import Series
from kdbench.reports.columns import (
    comparison_caption,
    comparison_tables,
    p_value,
    provenance_table,
    results_table,
    teachers_table,
)
from kdbench.reports.paired_tests import comparisons
from kdbench.reports.published import Published, Value
from kdbench.reports.published_match import with_published
from kdbench.reports.teachers import teachers_of
from tests.reports.records import record, series_of

PUBLISHED = Published(
    source="somebody's log",
    status="derived",
    selection="best epoch",
    epochs=240,
    values=[
        Value("cifar100", "resnet56:resnet20", "kd", "first 5 %, repeated", 52.3, 0.23, 5),
        Value("cifar100", "resnet56:resnet20", "kd", "first 1 %, repeated", 17.53, 0.0, 1),
    ],
)


def printed(series: list[Series]) -> list[dict[str, str]]:
    """Return the printed rows by heading."""
    table = results_table(series)
    headings = [column.heading for column in table.printed]
    return [dict(zip(headings, line, strict=True)) for line in table.lines]


def test_a_row_has_mean_deviation_and_number_of_seeds():
    records = [record("ce", 0, 10.0), record("kd", 0, 20.0), record("ce", 1, 14.0)]
    assert printed(series_of(*records)) == [
        {
            "pair": "resnet56 -> resnet20",
            "loss": "ce",
            "last top-1 %": "12.00 ± 2.83",
            "n": "2",
            "best_on_test %": "12.00",
            "agreement %": "75.0",
            "training s": "100",
        },
        {
            "pair": "resnet56 -> resnet20",
            "loss": "kd",
            "last top-1 %": "20.00",
            "n": "1",
            "best_on_test %": "20.00",
            "agreement %": "75.0",
            "training s": "100",
        },
    ]


def test_protocols_are_a_column_where_they_differ():
    noisy = "label noise 40 % (seed 0)"
    first, second = printed(series_of(record(protocol=noisy), record()))
    assert list(first)[:3] == ["pair", "protocol", "loss"]
    assert (first["protocol"], second["protocol"]) == (noisy, "unchanged training set")
    assert "protocol" not in printed(series_of(record(protocol=noisy)))[0]


def test_variants_are_a_column_unless_the_protocols_name_them():
    fast, slow = record(variant="fast", lr=0.1), record(variant="slow", lr=0.2)
    assert [row["variant"] for row in printed(series_of(fast, slow))] == ["fast", "slow"]
    five, ten = record(variant="5%", protocol="first 5 %"), record(variant="10%", protocol="first 10 %")
    assert "variant" not in printed(series_of(five, ten))[0]


def test_data_sets_are_a_column_where_runs_are_scored_on_several():
    scored_twice = record()
    scored_twice["results"]["last"] |= {"vicuna/top1": 50.0}
    assert [row["dataset"] for row in printed(series_of(scored_twice))] == ["cifar100", "vicuna"]


def test_groups_of_classes_are_columns_where_a_protocol_has_them():
    omitted = [record(seed=seed, scores={"omitted": 1.0 + 2 * seed, "kept": 60.0}) for seed in (0, 1)]
    tailed = record(protocol="imbalance 10", scores={"head": 70.0, "medium": 40.0, "tail": 9.0})
    first, second = printed(series_of(*omitted, tailed))
    groups = [f"{name} %" for name in ("omitted", "kept", "head", "medium", "tail")]
    assert [first[name] for name in groups] == ["2.00 ± 1.41", "60.00 ± 0.00", "", "", ""]
    assert [second[name] for name in groups] == ["", "", "70.00", "40.00", "9.00"]


def test_epochs_are_a_column_where_they_differ():
    rows = printed(series_of(record(epochs=30), record(epochs=240)))
    assert [row["epochs"] for row in rows] == ["30", "240"]


def test_published_values_are_in_the_row_of_their_protocol():
    protocols = ("first-of-this-order 5 %, repeated", "first 5 %", "first 5 %, repeated")
    short = record(protocol="first 1 %, repeated", epochs=2)
    records = [*(record(protocol=protocol, top1=51.0) for protocol in protocols), short]
    other, unpublished, same, shorter = printed(with_published(series_of(*records), [PUBLISHED]))
    assert (same["published %"], same["n pub."], same["delta"], same["z"]) == (
        "52.30 ± 0.23",
        "5",
        "-1.30",
        "-",
    )
    assert same["compared with"] == "best_on_test (best epoch)"
    assert same["notes"] == "no z: one seed here"
    assert (other["published %"], other["delta"]) == ("52.30 ± 0.23", "-")
    assert other["notes"] == "here other images (first-of-this-order 5 %, repeated)"
    assert (shorter["published %"], shorter["delta"]) == ("17.53", "-")
    assert shorter["notes"] == "epochs: 2 here, 240 in the source"
    assert {unpublished[heading] for heading in ("published %", "n pub.", "delta", "z", "notes")} == {""}


def test_the_best_epoch_has_a_deviation_where_a_published_value_is_compared_with_it():
    records = [record(seed=seed, top1=51.0 + seed, protocol="first 5 %, repeated") for seed in (0, 1)]
    (row,) = printed(with_published(series_of(*records), [PUBLISHED]))
    assert row["best_on_test %"] == "51.50 ± 0.71"
    assert printed(series_of(*records))[0]["best_on_test %"] == "51.50"


def test_nothing_published_is_printed_where_nothing_matches():
    (row,) = printed(with_published(series_of(record(protocol="stratified 5 % (seed 0)")), [PUBLISHED]))
    assert not [heading for heading in row if "pub" in heading]


def test_teachers_have_their_published_accuracy():
    table = teachers_table(teachers_of(series_of(record())))
    assert table.lines == [["resnet56", "cifar100", "72.50", "72.34", "+0.16", "resnet56", ""]]


def test_comparisons_are_a_table_for_each_family():
    records = [
        record(loss, seed, top1 + seed**2) for loss, top1 in (("ce", 10.0), ("kd", 11.0)) for seed in (0, 1)
    ]
    results = comparisons(series_of(*records))
    (table,) = comparison_tables(results)
    assert table.title == "resnet56 -> resnet20, cifar100, 240 epochs"
    assert table.lines[0][:5] == ["kd - ce", "last top-1", "2", "+1.00", "-"]
    assert comparison_tables(results, least=3) == []
    assert comparison_caption(results, least=3) == ""
    assert "With 2 pairs Wilcoxon's p cannot fall below 0.5." in comparison_caption(results)


@pytest.mark.parametrize(("value", "text"), [(0.0001, "< 0.001"), (0.25, "0.250")])
def test_p_values_have_three_decimals(value, text):
    assert p_value(value) == text


def test_provenance_counts_runs_by_origin():
    (series,) = series_of(record(seed=0), record(seed=1))
    table = provenance_table(series.runs)
    assert table.lines[0][:3] == ["2", "a processor", "2"]
