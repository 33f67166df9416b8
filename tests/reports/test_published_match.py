"""Published values are compared with the series that they belong to, and only where the recipes agree."""

import math
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from kdbench.reports.compare import compare
from kdbench.reports.published import Published, Value, published_for
from kdbench.reports.published_match import find_match, find_value, match, published_sources
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table, overrides_of
from tests.helpers.composition import compose_checked
from tests.reports.records import record, series_of

register()


def source(value: Value) -> list[Published]:
    return [Published("a log", "verified", "last epoch", 240, values=[value])]


def value(**changes) -> Value:
    return Value(
        **{"dataset": "cifar100", "pair": "resnet56:resnet20", "loss": "kd", "protocol": "", "mean": 70.66},
        **changes,
    )


RUNS = record(seed=0, top1=70.0, best=71.0), record(seed=1, top1=71.0, best=72.0)


def test_last_is_compared_with_last_and_best_with_best():
    (series,) = series_of(*RUNS)
    result = find_match(series, source(value(std=0.24, trials=5)))
    assert (result.compared, result.delta) == ("last", pytest.approx(70.5 - 70.66))
    assert result.z == pytest.approx((70.5 - 70.66) / math.sqrt(0.24**2 / 5 + 0.5 / 2))
    result = find_match(series, source(value(std=0.24, trials=5, selection="best epoch")))
    assert (result.compared, result.delta) == ("best_on_test", pytest.approx(71.5 - 70.66))


@pytest.mark.parametrize(
    ("changes", "runs", "reason"),
    [
        ({"weights": "kd 0.8"}, RUNS, "other loss weights in the source: kd 0.8"),
        ({}, (record(epochs=30),), "epochs: 30 here, 240 in the source"),
    ],
)
def test_no_difference_between_different_settings(changes, runs, reason):
    result = find_match(series_of(*runs)[0], source(value(**changes)))
    assert (result.delta, result.z, result.reason) == (None, None, reason)


@pytest.mark.parametrize(
    ("changes", "runs", "reason"),
    [
        ({"std": 0.2, "trials": 3}, RUNS[:1], "no z: one seed here"),
        ({"trials": 3}, RUNS, "no z: the source gives no deviation"),
        ({"std": 0.2}, RUNS, "no z: the source gives no deviation"),
    ],
)
def test_a_difference_without_z_has_a_reason(changes, runs, reason):
    result = find_match(series_of(*runs)[0], source(value(**changes)))
    assert result.delta is not None
    assert (result.z, result.reason) == (None, reason)


def test_other_protocols_data_sets_and_losses_have_no_published_value():
    others = series_of(record(protocol="first 5 %"), record(dataset="cifar10"), record("wttm"))
    assert [find_match(one, source(value())) for one in others] == [None] * 3


def test_first_images_of_our_copy_are_shown_with_the_authors_and_not_compared():
    (series,) = series_of(record(protocol="first-of-this-order 5 %, repeated"))
    result = find_match(series, source(replace(value(), protocol="first 5 %, repeated")))
    assert (result.value.mean, result.delta) == (70.66, None)
    assert result.reason == "here other images (first-of-this-order 5 %, repeated)"


def test_the_table_of_the_runs_comes_first():
    names = [published.source for published in published_sources(["cifar100-same-crd"])]
    assert names[0] != names[1]
    assert published_sources([])[0].source != names[0]


def test_numbers_from_memory_are_never_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.reports.published.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "t").mkdir()
    about = "source: s\nselection: last epoch\nepochs: 240\nvalues: []\nstatus: "
    (tmp_path / "t" / "published.yaml").write_text(about + "from-memory\n")
    assert published_sources(["t"]) == []
    (tmp_path / "t" / "published.yaml").write_text(about + "verified\n")
    assert len(published_sources([])) == 1


def test_the_published_few_shot_values_fit_the_protocols_of_the_table():
    """KD at 5 %: the headline gain of the abstract is 5.72 points."""
    published = published_for("mcmi-fewshot")
    table = load_table("mcmi-fewshot", [])
    protocols = {f"first {name.replace('%', ' %')}, repeated" for name in table.variants}
    assert {one.protocol for one in published.values} == protocols - {"first 35 %, repeated"}
    assert {one.loss for one in published.values} == set(table.losses)
    series = series_of(
        *(
            record(teacher=teacher, protocol="first-of-this-order 5 %, repeated")
            for teacher in ("resnet56", "resnet56@mcmi-0.15")
        )
    )
    assert [find_value(one, published).mean for one in series] == [52.30, 58.02]


TABLE, PAIR = "cifar100-same", "resnet56:resnet20"


@pytest.mark.parametrize(("overrides", "is_compared"), [((), True), (("schedule.batch_size=128",), False)])
def test_a_series_of_another_recipe_has_no_difference(overrides, is_compared):
    cfg = compose_checked("train", [*overrides_of(load_table(TABLE, []), PAIR, "", "kd", 3), *overrides])
    complete = record() | {"config": OmegaConf.to_container(cfg, resolve=True)}
    published = published_for(TABLE)

    def against_published(**changes):
        (series,) = series_of({**complete, **changes})
        return match(series, result, published)

    result = find_value(series_of(complete)[0], published)
    usual = against_published()
    assert (usual.delta is not None) is is_compared
    assert ("schedule.batch_size=128, not 64" in usual.reason) is not is_compared
    plain = against_published(teacher={**complete["teacher"], "epoch": 2})
    assert plain.delta == usual.delta, "a plain teacher is judged by its own score"
    names = {**complete["names"], "teacher": "resnet56@mcmi-0.15"}
    variant = against_published(teacher={**complete["teacher"], "epoch": 2}, names=names)
    assert variant.delta is None
    assert "a teacher of 2 epochs, not 20" in variant.reason
    assert compare([70.0], [70.0], 240, result, published).delta is not None
