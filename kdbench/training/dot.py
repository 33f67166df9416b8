"""DOT, Zhao et al. 2023, arXiv:2307.08436: a momentum for what the labels say, another for what the teacher says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class DOT(torch.optim.Optimizer):
    """SGD with two buffers: the labels' gradients at `momentum - delta`, the objectives' at `momentum + delta`.

    A step is: backward of the objectives, `keep()`, backward of the labels, `step()`. Both buffers move the weights,
    and weight decay is added once, to the labels' gradients. What only one of the two reaches (layers of an objective's
    own) has the plain momentum. Which settings make sense `Schedule.check_dot` says.
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
        """Take the gradients that are there for those of the objectives, and leave none."""
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        self._kept = {one: one.grad for one in parameters if one.grad is not None}
        self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move by what was kept, and by the gradients that are there now: the labels'."""
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
