"""FLOPs and parameter counts of networks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

COSTS = Path(__file__).parent / "costs.json"


@dataclass(frozen=True)
class ModelCost:
    """Cost of a network for one 32x32 image.

    Attributes:
        forward_gflops: GFLOPs of one forward pass.
        training_gflops: GFLOPs of one training step (forward and backward pass).
        parameters: Number of parameters.
    """

    forward_gflops: float
    training_gflops: float
    parameters: int


def model_cost(network: str, num_classes: int = 100) -> ModelCost:
    """Return the cost of an image network by name.

    The costs of kdbench's own networks with 100 classes are in costs.json (`scripts/measure_costs.py`), so that an
    estimate for a table builds no network. Others are measured.

    Raises:
        ValueError: There is no such network.
    """
    if num_classes == 100 and (cost := _known_costs().get(network)) is not None:
        return ModelCost(**cost)
    return measure_cost(network, num_classes)


@cache
def measure_cost(network: str, num_classes: int = 100) -> ModelCost:
    """Build a network and measure its cost.

    Raises:
        ValueError: There is no such network.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from kdbench.models.registry import create_model

    model = create_model(network, num_classes)
    images = torch.zeros(2, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model.eval()(images)
    with FlopCounterMode(display=False) as training:
        model.train()(images).sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(forward.get_total_flops() / 2e9, training.get_total_flops() / 2e9, parameters)


@cache
def _known_costs() -> dict[str, dict[str, Any]]:
    costs: dict[str, dict[str, Any]] = json.loads(COSTS.read_text())
    return costs
