"""Costs of networks: the stored ones are those that are measured."""

from dataclasses import asdict

import pytest

from kdbench.models.configurations import vision_names
from kdbench.models.flops import COSTS, measure_cost, model_cost


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "ShuffleV2"])
def test_stored_costs_are_those_that_are_measured(name):
    assert model_cost(name) == measure_cost(name)


def test_every_network_has_a_stored_cost():
    import json

    stored = json.loads(COSTS.read_text())
    assert stored.keys() == set(vision_names())
    assert all(cost.keys() == asdict(model_cost("resnet8")).keys() for cost in stored.values())
