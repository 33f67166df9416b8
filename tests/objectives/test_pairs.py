"""conf/pairs: the published per-pair values, which the loss recipes read."""

from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parents[2] / "conf"
KEYS = {
    "ttm": {"gamma", "beta"},
    "wttm": {"gamma", "beta"},
    "dkd": {"beta"},
    "abkd": {"alpha", "beta", "weight"},
}
ALIAS = {("ttm", "beta"), ("wttm", "beta"), ("abkd", "weight")}
"""Keys that are weights of the loss, not parameters of the objective."""


def load(group: str, method: str) -> dict:
    return yaml.safe_load((CONF / group / f"{method}.yaml").read_text())


def test_every_file_is_checked_here():
    assert {file.stem for file in (CONF / "pairs").glob("*.yaml")} == set(KEYS)


@pytest.mark.parametrize("method", KEYS)
def test_every_pair_has_every_value(method):
    pairs = load("pairs", method)
    assert set(pairs) == {"source", "status", "fallback", "values"}
    assert pairs["fallback"] in pairs["values"]
    for pair, values in pairs["values"].items():
        teacher, student = pair.split(":")
        assert teacher != student
        assert set(values) == KEYS[method]
        assert all(value > 0 for value in values.values())


@pytest.mark.parametrize("method", ["ttm", "wttm", "abkd"])
def test_the_objectives_numbers_are_those_of_the_fallback(method):
    """Where a parameter has no default of its own, conf/objective carries the named pair's."""
    pairs, objective = load("pairs", method), load("objective", method)
    for key, value in pairs["values"][pairs["fallback"]].items():
        assert (method, key) in ALIAS or objective[key] == value


@pytest.mark.parametrize(
    ("method", "pair", "values"),
    [
        ("ttm", "wrn_40_2:wrn_16_2", {"gamma": 0.1, "beta": 101}),
        ("ttm", "resnet32x4:ShuffleV2", {"gamma": 0.4, "beta": 40}),
        ("wttm", "vgg13:vgg8", {"gamma": 0.1, "beta": 2.25}),
        ("wttm", "resnet32x4:ShuffleV1", {"gamma": 0.2, "beta": 1.4}),
        ("dkd", "vgg13:vgg8", {"beta": 6}),
        ("abkd", "resnet56:resnet20", {"alpha": 0.8, "beta": 0.3, "weight": 32}),
    ],
)
def test_published_values(method, pair, values):
    assert load("pairs", method)["values"][pair] == values


@pytest.mark.parametrize("method", ["ttm", "wttm"])
def test_both_tables_of_the_paper_are_complete(method):
    assert len(load("pairs", method)["values"]) == 7 + 6
