"""What a report can be about."""

import pytest

from kdbench.reports.places import NoRunsError, place_of
from kdbench.utils.paths import EXPERIMENTS_DIR


def test_tables_and_paths_are_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("demo") == EXPERIMENTS_DIR / "demo" / "results.jsonl"
    (tmp_path / "runs" / "tables" / "demo").mkdir(parents=True)
    assert str(place_of("demo")) == "runs/tables/demo"
    assert place_of(str(tmp_path)) == tmp_path


def test_tables_without_runs_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoRunsError, match="has no runs here") as error:
        place_of("cifar100-same")
    assert error.value.table == "cifar100-same"
    with pytest.raises(NoRunsError, match="kdbench has no grid"):
        place_of("abkd-lm-wasd")


def test_unknown_names_get_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder and no table 'cifar100-sam'.*cifar100-same"):
        place_of("cifar100-sam")
