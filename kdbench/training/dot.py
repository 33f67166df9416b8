"""DOT: separate momenta for the gradients of the labels and of the teacher (Zhao et al. 2023, arXiv:2307.08436)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class DOT(torch.optim.Optimizer):
    """SGD with two momentum buffers.

    The gradients of the labels have the momentum `momentum - delta`, those of the objectives `momentum + delta`. A step
    is: backward of the objectives, `keep()`, backward of the labels, `step()`. Both buffers move the weights. Weight
    decay is added once, to the gradients of the labels. Parameters that only one of the two reaches (an objective's
    own layers) have the plain momentum. `Schedule.check_dot` checks the settings.

    Args:
        parameters: The parameters.
        lr: Learning rate.
        momentum: Momentum.
        delta: Difference of the momenta from `momentum`.
        weight_decay: Weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        delta: float,
        weight_decay: float,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        super().__init__(parameters, settings)
        self._kept: dict[nn.Parameter, Tensor] = {}

    def keep(self) -> None:
        """Store the current gradients as those of the objectives, and clear them."""
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        self._kept = {one: one.grad for one in parameters if one.grad is not None}
        self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters by the stored gradients and the current ones, which are those of the labels."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._move(parameter, parameter.grad, self._kept.get(parameter), group)
        self._kept = {}

    def _move(
        self, parameter: nn.Parameter, labels: Tensor | None, objectives: Tensor | None, group: dict[str, Any]
    ) -> None:
        delta = group["delta"] if labels is not None and objectives is not None else 0.0
        decay = group["weight_decay"] * parameter
        state = self.state[parameter]
        for name, gradient, shift in (("labels", labels, -delta), ("objectives", objectives, delta)):
            if gradient is None:
                continue
            if name == "labels" or labels is None:
                gradient = gradient + decay
            if name not in state:
                state[name] = torch.zeros_like(parameter)
            buffer = state[name].mul_(group["momentum"] + shift).add_(gradient)
            parameter.add_(buffer, alpha=-group["lr"])
