"""FLOPs and parameter counts of networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdbench.models.registry import create_model


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


@cache
def model_cost(network: str, num_classes: int = 100) -> ModelCost:
    """Measure the cost of an image network by name.

    Raises:
        ValueError: If there is no such network.
    """
    model = create_model(network, num_classes)
    images = torch.zeros(2, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model.eval()(images)
    with FlopCounterMode(display=False) as training:
        model.train()(images).sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(forward.get_total_flops() / 2e9, training.get_total_flops() / 2e9, parameters)
