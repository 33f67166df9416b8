"""What a network costs: products, and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdbench.models.registry import create_model


@dataclass(frozen=True)
class Cost:
    """Of one network on one 32 x 32 image: GFLOP of an answer and of a training step, and parameters."""

    answer: float
    learn: float
    parameters: int


@cache
def cost(network: str, classes: int = 100) -> Cost:
    """What a network costs; ValueError where there is no such image network."""
    model = create_model(network, classes)
    images = torch.zeros(2, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as answering:
        model.eval()(images)
    with FlopCounterMode(display=False) as learning:
        model.train()(images).sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(answering.get_total_flops() / 2e9, learning.get_total_flops() / 2e9, parameters)
