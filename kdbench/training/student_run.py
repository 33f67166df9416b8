"""The bookkeeping of one student's run: metrics, best weights, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.distributed.collectives import on_rank_0
from kdbench.models.checkpoints import save_weights
from kdbench.training.best_weights import BestWeights
from kdbench.training.divergence import DivergenceGuard
from kdbench.training.loggers import RunLogger
from kdbench.training.run_folder import RunFolder
from kdbench.training.student import Student, split_weights


@dataclass(frozen=True)
class StepLosses:
    """The losses of consecutive optimiser steps of an epoch.

    Attributes:
        steps: The steps, without those that had no rows.
        losses: One value for each step: of the whole loss (`total`) and of each part.
        seconds: The time that the steps took.
        images: The number of rows in the steps.
        stop: The step after the last one.
        ends_line: Whether a log line ends here; false after an interruption.
    """

    steps: Sequence[int]
    losses: Mapping[str, Sequence[float]]
    seconds: float
    images: int
    stop: int
    ends_line: bool = True


class StudentRun:
    """A student in training, and what its run writes.

    Attributes:
        student: The student.
        folder: The run folder.
        about: Metadata of the network (name, classes, data), stored beside its weights.
        logger: An additional logger such as W&B, while the run trains; or None.
        best: The weights at the best epoch.
        guard: The checks for divergence.
    """

    def __init__(self, student: Student, folder: RunFolder, about: Mapping[str, Any]) -> None:
        self.student, self.folder, self.about = student, folder, dict(about)
        self.logger: RunLogger | None = None
        self.best = BestWeights()
        self.guard = DivergenceGuard(student, about.get("num_classes"), folder.describe_checkpoint)

    def record_steps(self, rows: StepLosses, steps_per_epoch: int) -> None:
        """Check the losses of some steps, write their mean as a line of metrics, and move the progress on.

        Raises:
            RunError: The run has diverged.
        """
        student, progress = self.student, self.student.progress
        self.guard.check_losses(rows.losses, rows.steps, rows.stop, rows.ends_line)
        for key, values in rows.losses.items():
            progress.sums[key] = progress.sums.get(key, 0.0) + sum(values)
        progress.seconds += rows.seconds
        progress.images += rows.images
        progress.step = rows.stop
        line: dict[str, Any] = {"epoch": progress.epoch, "step": rows.stop}
        line |= {f"train/{key}": sum(values) / len(values) for key, values in rows.losses.items()}
        line[f"{student.task.unit}_per_second"] = rows.images / rows.seconds
        line["lr"] = student.schedule.lr_at(progress.epoch, rows.stop - 1, steps_per_epoch)
        self._write(line, steps_per_epoch)

    def close_epoch(self, steps_per_epoch: int, steps_with_rows: int) -> None:
        """Write the line of an epoch, keep the weights if they are the best, and begin the next epoch."""
        progress = self.student.progress
        is_evaluated = bool(progress.curve) and progress.curve[-1]["epoch"] == progress.epoch
        line: dict[str, Any] = progress.curve[-1] if is_evaluated else {"epoch": progress.epoch}
        line |= {f"train/{key}": value / steps_with_rows for key, value in progress.sums.items()}
        if is_evaluated:
            self.best.update(self.student)
        self._write(line, steps_per_epoch)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def save_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Commit a checkpoint, from which a resumed run continues.

        Raises:
            RunError: A weight is not finite, or the disk is full.
        """
        self.guard.check_weights()
        self.folder.save_state({**self.student.state(optimizer), "best": self.best.weights})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue at a checkpoint."""
        self.student.restore(state)
        self.best.weights = state["best"]

    @on_rank_0
    def save_weights(self) -> None:
        """Write the weights of the last and the best epoch into the folder: `student` and `best_validation`.

        The weights of an objective that replaces the classifier go into a file beside each, `NAME.predictor`.
        """
        student, results, about = self.student, self.student.results(), dict(self.about)
        if not results:
            return
        if student.loss.predictor is not None:
            about["predictor"] = type(student.loss.predictor).__name__
        self._save(student.weights(), "student", {**about, **results["last"]})
        if self.best.weights:
            self._save(self.best.weights, "best_validation", {**about, **results["best_validation"]})

    def _save(self, weights: Mapping[str, Tensor], name: str, about: Mapping[str, Any]) -> None:
        network, predictor = split_weights(weights)
        save_weights(network, self.folder.path / f"{name}.safetensors", about)
        if predictor:
            save_weights(predictor, self.folder.path / f"{name}.predictor.safetensors", about)

    def _write(self, line: dict[str, Any], steps_per_epoch: int) -> None:
        self.folder.append_metrics(line)
        if self.logger is not None:
            position = (line["epoch"] - 1) * steps_per_epoch + line.get("step", steps_per_epoch)
            self.logger.log_metrics(
                {key: value for key, value in line.items() if key != "step"}, step=position
            )
