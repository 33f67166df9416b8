"""Where and how runs were made."""

from kdbench.reports.provenance import configuration, differing_keys, footnotes, origin, origins
from tests.reports.records import record, series_of


def runs(*records: dict) -> list:
    return [run for one in series_of(*records) for run in one.runs]


def test_origins_are_counted():
    first, second = origins(runs(record(seed=0), record(seed=1), record(seed=2, commit="fedcba987654")))
    assert (first["runs"], first["commit"], first["torch"]) == ("2", "0123456789ab", "2.15.0")
    assert (second["runs"], second["commit"]) == ("1", "fedcba987654")


def test_what_a_record_lacks_is_a_dash():
    assert set(origin({}).values()) == {"-", ""}
    assert origin({"sessions": [1, 2]})["resumed"] == "2 times"


def test_only_keys_of_the_recipe_differ():
    two_runs = runs(record(seed=0), record(seed=1, lr=0.1))
    assert differing_keys(two_runs) == ["schedule.lr"]
    assert "output" not in configuration(two_runs[0].record)
    assert configuration({}) == {}


def test_unusual_times_and_outputs_have_a_footnote():
    assert footnotes(runs(record())) == ["Training times exclude start-up and evaluation."]
    assert len(footnotes(runs(record(cohort=["a", "b"], protocol="first 5 %")))) == 3
