"""Published values beside what was measured, where and only where they compare."""

import math

import pytest

from kdbench.reports.aggregate import gather
from kdbench.reports.published import Published, Value
from kdbench.reports.published_match import beside, networks, sources, teachers
from kdbench.reports.read import Run
from kdbench.utils.paths import EXPERIMENTS_DIR
from tests.reports.records import record


def series(*records: dict):
    return gather([Run(one, f"run {place}") for place, one in enumerate(records)])[0]


def source(value: Value, **about) -> list[Published]:
    return [
        Published("a log", "verified", "last epoch", 240, values=[value]) if not about else Published(**about)
    ]


def value(**changes) -> Value:
    return Value(
        **{"dataset": "cifar100", "pair": "resnet56:resnet20", "loss": "kd", "protocol": "", "mean": 70.66},
        **changes,
    )


RUNS = record(seed=0, top1=70.0, best=71.0), record(seed=1, top1=71.0, best=72.0)


def test_last_is_compared_with_last_and_best_with_best():
    (row,) = series(*RUNS)
    found = beside(row, source(value(std=0.24, trials=5)))
    assert (found.compared, found.delta) == ("last", pytest.approx(70.5 - 70.66))
    assert found.z == pytest.approx((70.5 - 70.66) / math.sqrt(0.24**2 / 5 + 0.5 / 2))
    found = beside(row, source(value(std=0.24, trials=5, selection="best epoch")))
    assert (found.compared, found.delta) == ("best_on_test", pytest.approx(71.5 - 70.66))


@pytest.mark.parametrize(
    ("changes", "runs", "why"),
    [
        ({"weights": "kd 0.8"}, RUNS, "other weights there: kd 0.8"),
        ({}, (record(epochs=30),), "30 epochs here, 240 there"),
    ],
)
def test_no_difference_where_the_settings_are_not_the_same(changes, runs, why):
    found = beside(series(*runs)[0], source(value(**changes)))
    assert (found.delta, found.z, found.why) == (None, None, why)


@pytest.mark.parametrize(
    ("changes", "runs", "why"),
    [
        ({"std": 0.2, "trials": 3}, RUNS[:1], "z: one seed here"),
        ({"trials": 3}, RUNS, "z: no published deviation"),
        ({"std": 0.2}, RUNS, "z: no published deviation"),
    ],
)
def test_a_difference_without_z_says_why(changes, runs, why):
    found = beside(series(*runs)[0], source(value(**changes)))
    assert found.delta is not None
    assert (found.z, found.why) == (None, why)


def test_nothing_beside_another_protocol_data_set_or_loss():
    others = [record(protocol="first 5 %"), record(dataset="cifar10"), record("wttm")]
    assert [beside(row, source(value())) for row in series(*others)] == [None] * 3


def test_the_table_of_the_runs_comes_first():
    names = [published.source for published in sources(["cifar100-same-crd"])]
    assert names[0] != names[1]
    assert sources([])[0].source != names[0]


def test_numbers_from_memory_are_never_shown(tmp_path, monkeypatch):
    for module in ("published_match", "published"):
        monkeypatch.setattr(f"kdbench.reports.{module}.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "t").mkdir()
    about = "source: s\nselection: last epoch\nepochs: 240\nvalues: []\nstatus: "
    (tmp_path / "t" / "published.yaml").write_text(about + "from-memory\n")
    assert sources(["t"]) == []
    (tmp_path / "t" / "published.yaml").write_text(about + "verified\n")
    assert len(sources([])) == 1


def test_a_teacher_beside_the_published_network_of_its_name():
    (one,) = teachers(series(record(seed=0), record(seed=1)))
    assert (one.name, one.score, one.published, one.gap) == ("resnet56", 72.5, 72.34, pytest.approx(0.16))
    (variant,) = teachers(series(record(teacher="resnet56@mcmi-0.15")))
    assert (variant.published, variant.gap) == (None, None)
    (other,) = teachers(series(record(dataset="cifar10")))
    assert other.published is None


def test_two_files_of_one_name_are_two_teachers():
    another = record("wttm")
    another["teacher"] = {**another["teacher"], "hash": "b" * 64, "top1": 70.0}
    assert [one.score for one in teachers(series(record(), another))] == [72.5, 70.0]


@pytest.mark.parametrize(
    "file", sorted((EXPERIMENTS_DIR / "networks").glob("*.yaml")), ids=lambda file: file.stem
)
def test_published_networks_are_of_networks_that_there_are(file):
    from kdbench.models.names import available

    found = networks(file.stem)
    assert found.dataset == file.stem
    assert set(found.top1) <= set(available())
    assert found.status == "verified"


def test_a_file_of_networks_with_a_mistake_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.reports.published.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "mine.yaml").write_text("dataset: mine\ntop5: {}\n")
    with pytest.raises(ValueError, match=r"networks/mine.yaml.*top5"):
        networks("mine")
    assert networks("other") is None
