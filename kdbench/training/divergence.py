"""Stop runs whose loss or weights are not finite, or whose loss falls without bound."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from kdbench.core.errors import RunError
from kdbench.losses.composite import CROSS_ENTROPY
from kdbench.training.student import Student

Losses = Mapping[str, Sequence[float]]
"""Values by step of the whole loss (`total`) and of each part."""


class DivergenceGuard:
    """Checks the losses and weights of one student.

    Args:
        student: The student.
        num_classes: Number of classes C. A term without a lower bound has diverged when its mean over a log line is
            above ln C, the entropy of a uniform answer, which no conditional mutual information exceeds.
        describe_checkpoint: Returns the part of messages that says which checkpoint is left.
    """

    def __init__(
        self, student: Student, num_classes: int | None, describe_checkpoint: Callable[[], str]
    ) -> None:
        self.student, self.num_classes = student, num_classes
        self._describe_checkpoint = describe_checkpoint

    def check_losses(self, losses: Losses, steps: Sequence[int], stop: int, ends_line: bool) -> None:
        """Check the losses of consecutive steps of an epoch.

        Args:
            losses: The losses, one value for each step.
            steps: The steps, without those that had no rows.
            stop: The step after the last one.
            ends_line: Whether a log line ends here. A run that is interrupted within a line is judged by the whole line
                after it resumes.

        Raises:
            RunError: A loss is not finite, or a term without a lower bound has diverged.
        """
        self._check_finite(losses, steps)
        self._check_bounds(losses, stop, ends_line)

    def check_weights(self) -> None:
        """Check that all weights are finite, before they are saved.

        Raises:
            RunError: One is not. A run that resumed from it would fail.
        """
        for name, value in self.student.named_parameters():
            if not bool(torch.isfinite(value).all()):
                progress = self.student.progress
                place = f"epoch {progress.epoch}, step {progress.step}"
                raise RunError(f"{name} is not finite before {place}; {self._describe_checkpoint()}")

    def _check_finite(self, losses: Losses, steps: Sequence[int]) -> None:
        for number, (step, total) in enumerate(zip(steps, losses["total"], strict=True)):
            if math.isfinite(total):
                continue
            values = {key: values[number] for key, values in losses.items() if key != "total"}
            not_finite = {key: value for key, value in values.items() if not math.isfinite(value)}
            parts = ", ".join(f"{key} = {value}" for key, value in (not_finite or {"total": total}).items())
            place = f"epoch {self.student.progress.epoch}, step {step}"
            raise RunError(f"the loss is not finite at {place}: {parts}; {self._describe_checkpoint()}")

    def _check_bounds(self, losses: Losses, stop: int, ends_line: bool) -> None:
        unbounded = [name for name, term in self.student.loss.terms.items() if not term.bounded]
        if not unbounded:
            return
        progress = self.student.progress
        line = progress.line
        for key in (CROSS_ENTROPY, *unbounded):
            line.setdefault(key, []).extend(losses.get(key, ()))
        if not ends_line:
            return
        assert self.num_classes is not None
        limit, progress.line = math.log(self.num_classes), {}
        means = {key: statistics.fmean(values) for key, values in line.items() if values}
        for name in unbounded:
            if -means[name] > limit:
                parts = ", ".join(
                    f"{key} = {means[key]:.3f}" for key in (CROSS_ENTROPY, name) if key in means
                )
                place = f"epoch {progress.epoch}, the {len(line[name])} steps to {stop}"
                raise RunError(
                    f"diverged at {place}: {parts} on average, and ln C = {limit:.3f}; a smaller weight of {name} or a "
                    f"smaller learning rate may help; {self._describe_checkpoint()}"
                )
