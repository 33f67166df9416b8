"""Optimiser and learning rates: SGD or AdamW, and a rate that is a pure function of the position."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from kdbench.training.dot import DOT

PLANS = ("step", "one_cycle", "cosine", "linear", "constant")
ALGORITHMS = ("sgd", "adamw")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Epochs, batch size, the algorithm (`sgd` with momentum, or `adamw` with betas) and the plan of the learning rate.

    plan: `step` multiplies by `decay` after each milestone (epochs counted from 1; the drop comes when
        epoch > milestone), `one_cycle` rises linearly over the share `warmup` of all steps and falls linearly
        to zero, `cosine` falls once per epoch along half a cosine, `linear` falls
        from step to step to zero, which it would reach one step after the last, as transformers' schedule does (after
        a linear rise over the share `warmup`), `constant` stays.
    milestones_for: the number of epochs that the milestones were made for; another number of epochs is
        refused, because a schedule cut short or stretched silently is another recipe.
    clip: the largest gradient norm of one student, or None.
    """

    epochs: int
    batch_size: int
    lr: float
    plan: str = "step"
    milestones: Sequence[int] = field(default_factory=list)
    milestones_for: int | None = None
    decay: float = 0.1
    warmup: float = 0.2
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    clip: float | None = None
    algorithm: str = "sgd"
    betas: Sequence[float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"schedule.{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"schedule.lr must be positive, got {self.lr}")
        if self.plan not in PLANS:
            raise ValueError(f"schedule.plan is {self.plan!r}; possible: {', '.join(PLANS)}")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"schedule.algorithm is {self.algorithm!r}; possible: {', '.join(ALGORITHMS)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"schedule.betas are two numbers in [0, 1), got {list(self.betas)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"schedule.warmup is a share of all steps in [0, 1), got {self.warmup}")
        if self.plan == "step":
            self._check_milestones()

    def _check_milestones(self) -> None:
        made_for = self.milestones_for or self.epochs
        if made_for != self.epochs:
            scaled = [round(m * self.epochs / made_for) for m in self.milestones]
            raise ValueError(
                f"schedule.epochs={self.epochs}, but the milestones {list(self.milestones)} were made for "
                f"{made_for} epochs; give schedule.milestones={str(scaled).replace(' ', '')} "
                f"schedule.milestones_for={self.epochs}, or only the latter to keep them"
            )
        if any(not 1 <= m < self.epochs for m in self.milestones):
            raise ValueError(
                f"schedule.milestones={list(self.milestones)} must lie within the {self.epochs} epochs"
            )

    def check_dot(self, dot: float) -> None:
        """Check that the optimiser is plain SGD, as DOT needs it.

        Raises:
            ValueError: It is not.
        """
        plain: dict[str, tuple[object, str]] = {
            "algorithm": ("sgd", "sgd"),
            "nesterov": (False, "false"),
            "clip": (None, "null"),
        }
        for name, (value, word) in plain.items():
            if (given := getattr(self, name)) != value:
                raise ValueError(
                    f"loss.dot={dot}: DOT does not support schedule.{name}={given}; give schedule.{name}={word}"
                )
        if not (dot <= self.momentum and self.momentum + dot < 1):
            raise ValueError(
                f"loss.dot={dot}: schedule.momentum={self.momentum} less and plus it must lie in [0, 1)"
            )

    def lr_at(self, epoch: int, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of one optimiser step.

        Args:
            epoch: The epoch, from 1.
            step: The step within the epoch, from 0.
            steps_per_epoch: Steps of an epoch.
        """
        return self.lr * _FACTORS[self.plan](self, epoch, step, steps_per_epoch)

    def optimizer(self, network: nn.Module, dot: float | None = None) -> torch.optim.Optimizer:
        """Return an optimiser of all trainable parameters of a network, with the same weight decay for all.

        Args:
            network: The network, with the learnable parts of its loss.
            dot: The delta of `kdbench.training.dot.DOT`, or None for one momentum.

        Raises:
            ValueError: DOT is used and the optimiser is not plain SGD.
        """
        parameters = [p for p in network.parameters() if p.requires_grad]
        if dot is not None:
            self.check_dot(dot)
            return DOT(parameters, self.lr, self.momentum, dot, self.weight_decay)
        if self.algorithm == "adamw":
            first, second = self.betas
            return torch.optim.AdamW(
                parameters,
                lr=self.lr,
                betas=(first, second),
                weight_decay=self.weight_decay,
                fused=True,
            )
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


def _step(plan: Schedule, epoch: int, step: int, steps_per_epoch: int) -> float:
    return float(plan.decay ** sum(epoch > milestone for milestone in plan.milestones))


def _one_cycle(plan: Schedule, epoch: int, step: int, steps_per_epoch: int) -> float:
    total = plan.epochs * steps_per_epoch
    # at the middle of a step, so that neither the first nor the last step has a learning rate of zero
    done = ((epoch - 1) * steps_per_epoch + step + 0.5) / total
    return done / plan.warmup if done < plan.warmup else (1 - done) / (1 - plan.warmup)


def _cosine(plan: Schedule, epoch: int, step: int, steps_per_epoch: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / plan.epochs))


def _linear(plan: Schedule, epoch: int, step: int, steps_per_epoch: int) -> float:
    total, done = plan.epochs * steps_per_epoch, (epoch - 1) * steps_per_epoch + step
    rise = round(plan.warmup * total)
    return done / rise if done < rise else (total - done) / (total - rise)


def _constant(plan: Schedule, epoch: int, step: int, steps_per_epoch: int) -> float:
    return 1.0


_FACTORS: dict[str, Callable[[Schedule, int, int, int], float]] = {
    "step": _step,
    "one_cycle": _one_cycle,
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
}
