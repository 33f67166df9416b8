"""The LightningModule that distills: one or many students, one teacher call per batch."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from kdbench.core import Batch, Outputs, RunError
from kdbench.data.module import Chunk, EvalChunk, ImageData
from kdbench.metrics import Scores
from kdbench.schedule import Schedule
from kdbench.seeding import derive
from kdbench.student.student import Student
from kdbench.teacher.live import LiveTeacher


class Interrupted(RunError):  # noqa: N818 - not an error: what was asked for
    """The run was asked to stop, and stopped with a checkpoint to resume from."""


class StudentModule(LightningModule):
    """Trains `students` side by side on the same batches.

    Lightning's `training_step` is a chunk of consecutive optimiser steps (manual optimisation), so that its
    own cost is paid once per chunk. The position is ours (`Progress`): Lightning counts optimiser calls.
    """

    def __init__(
        self,
        students: Mapping[str, Student],
        teacher: LiveTeacher | None,
        data: ImageData,
        schedule: Schedule,
        seed: int,
        bf16: bool = False,
        evaluate_every: int = 1,
        save_every: float = 300.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.students = nn.ModuleList(students.values())
        self.teacher = teacher
        self.data, self.schedule, self.seed, self.bf16 = data, schedule, seed, bf16
        self.evaluate_every, self.save_every = evaluate_every, save_every
        self.stop_requested = False
        self.scores = nn.ModuleList(Scores(data.num_classes) for _ in students for _ in data.eval_splits)
        places = itertools.product(students, data.eval_splits)
        self._place = {key: number for number, key in enumerate(places)}
        self._teacher_logits: dict[tuple[str, int], Tensor] = {}
        self._saved_at = time.monotonic()
        self.live: dict[str, float] = {}
        """What a progress bar may show."""
        self.teacher_scores: dict[str, float] = {}
        """The teacher's accuracy on the test split, once training has ended."""

    @property
    def runs(self) -> dict[str, Student]:
        """The students by name, typed."""
        return {module.name: module for module in self.students if isinstance(module, Student)}

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, step) of the next optimiser step."""
        progress = next(iter(self.runs.values())).progress
        return progress.epoch, progress.step

    # ---- Lightning's hooks, in the order in which they come

    def setup(self, stage: str) -> None:
        """Keep the images where the networks are."""
        self.data.to(self.device)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser per student."""
        return [self.schedule.optimizer(student) for student in self.runs.values()]

    def on_train_start(self) -> None:
        """Give the optimisers what a resumed run had."""
        for student, optimizer in zip(self.runs.values(), self._optimizers(), strict=True):
            student.restore_optimizer(optimizer)

    def on_train_epoch_start(self) -> None:
        """Evaluate after every `evaluate_every` epochs of ours, and after the last one."""
        epoch, _ = self.position
        due = epoch % self.evaluate_every == 0 or self.trainer.current_epoch + 1 == self.trainer.max_epochs
        self.trainer.check_val_every_n_epoch = 1 if due else 10**9

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Run the optimiser steps of a chunk; stop between two of them when asked to."""
        started = time.perf_counter()
        parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self.runs}
        step = chunk.start
        while step < chunk.stop and not self.stop_requested:
            self._optimise(chunk.epoch, step, parts)
            step += 1
        steps = range(chunk.start, step)
        for name, student in self.runs.items():
            self._account(student, chunk.epoch, steps, parts[name], started)
        if step == self.data.steps_per_epoch:
            return  # the end of the epoch evaluates and saves
        if self.stop_requested:
            self._interrupt()
        if time.monotonic() - self._saved_at >= self.save_every:
            self.save()

    def validation_step(self, chunk: EvalChunk, _: int, dataloader_idx: int = 0) -> None:
        """Score every student on a chunk of a split."""
        batch = self.data.eval_batch(chunk.split, chunk.start, chunk.stop)
        teacher = self._remembered_teacher(chunk, batch)
        for name, student in self.runs.items():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                answer = student.answer(batch)
            if student.loss.needs_student:
                self._scores(name, chunk.split).update(student.loss.predict(answer), batch.target, teacher)

    def on_validation_epoch_end(self) -> None:
        """Close the scores of this epoch."""
        for name, student in self.runs.items():
            if not student.loss.needs_student:
                continue
            scored = {split: self._scores(name, split).compute() for split in self.data.eval_splits}
            row = {
                f"{split}/{key}": value for split, scores in scored.items() for key, value in scores.items()
            }
            student.progress.curve.append({"epoch": student.progress.epoch, **row})
            self.live["top1"] = row["test/top1"]

    def on_train_epoch_end(self) -> None:
        """Close the epoch: its row in the curve, the best weights so far, the checkpoint."""
        for student in self.runs.values():
            self._close_epoch(student)
        self.data.position = self.position
        if self.stop_requested:
            self._interrupt()
        self.save()

    def on_train_end(self) -> None:
        """Score the teacher while everything is still on one device: Lightning moves the networks back after."""
        if self.teacher is not None:
            self.teacher_scores = self._score_teacher()
        self._teacher_logits.clear()

    # ---- the work

    def _scores(self, name: str, split: str) -> Scores:
        scores = self.scores[self._place[name, split]]
        assert isinstance(scores, Scores)
        return scores

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        found = self.optimizers(use_pl_optimizer=False)
        return found if isinstance(found, list) else [found]

    def _optimise(self, epoch: int, step: int, parts: dict[str, list[dict[str, Tensor]]]) -> None:
        """One optimiser step of every student on the batch of this position."""
        views = dict.fromkeys(view for student in self.runs.values() for view in student.loss.views)
        batch = self.data.train_batch(epoch, step, tuple(views))
        teacher = self._teacher_answer(batch)
        lr = self.schedule.lr_at(epoch, step, self.data.steps_per_epoch)
        for (name, student), optimizer in zip(self.runs.items(), self._optimizers(), strict=True):
            # dropout and its like: the same draw whoever trains alongside, and after a resume
            torch.manual_seed(derive(self.seed, "step", epoch, step))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                answer = student.answer(batch)
            total, values = student.loss(answer, teacher, batch)
            optimizer.zero_grad(set_to_none=True)
            self.manual_backward(total)
            if self.schedule.clip is not None:
                nn.utils.clip_grad_norm_(student.parameters(), self.schedule.clip)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            parts[name].append({"total": total.detach(), **values})

    def _teacher_answer(self, batch: Batch) -> Outputs | None:
        losses = [student.loss for student in self.runs.values() if student.loss.needs_teacher]
        if not losses or self.teacher is None:
            return None
        taps = tuple(dict.fromkeys(tap for loss in losses for tap in loss.teacher_taps))
        answer: Outputs = self.teacher(batch, taps)
        return answer

    def _account(
        self, student: Student, epoch: int, steps: range, parts: list[dict[str, Tensor]], started: float
    ) -> None:
        """Look at a chunk's losses (once: on a GPU this waits), refuse NaN, and move the position."""
        progress = student.progress
        rows = {
            key: torch.stack([part[key] for part in parts]).tolist() for key in (parts[0] if parts else ())
        }
        _refuse_non_finite(rows, epoch, steps, student)
        for key, values in rows.items():
            progress.sums[key] = progress.sums.get(key, 0.0) + sum(values)
        seconds = time.perf_counter() - started
        images = (
            min(steps.stop * self.data.batch_size, self.data.train_size) - steps.start * self.data.batch_size
        )
        progress.seconds += seconds
        progress.images += images
        progress.step = steps.stop
        if not parts:
            return
        row: dict[str, Any] = {"epoch": epoch, "step": steps.stop}
        row |= {f"train/{key}": sum(values) / len(values) for key, values in rows.items()}
        row["images_per_second"] = images / seconds
        row["lr"] = self.schedule.lr_at(epoch, steps.stop - 1, self.data.steps_per_epoch)
        self.live = {"loss": row["train/total"], "images_per_second": row["images_per_second"]} | {
            key: value for key, value in self.live.items() if key == "top1"
        }
        self._report(student, row)

    def _report(self, student: Student, row: dict[str, Any]) -> None:
        student.folder.append_metrics(row)
        position = (row["epoch"] - 1) * self.data.steps_per_epoch + row.get("step", self.data.steps_per_epoch)
        for logger in self.trainer.loggers:
            logger.log_metrics({key: value for key, value in row.items() if key != "step"}, step=position)

    def _remembered_teacher(self, chunk: EvalChunk, batch: Batch) -> Tensor | None:
        """The teacher's logits [N, C] on a chunk of a split; asked once, as they never change."""
        if self.teacher is None:
            return None
        key = chunk.split, chunk.start
        if key not in self._teacher_logits:
            self._teacher_logits[key] = self.teacher(batch).logits.float()
        return self._teacher_logits[key]

    @torch.no_grad()
    def _score_teacher(self) -> dict[str, float]:
        """The teacher's own accuracy on the test split, in per cent."""
        scores = Scores(self.data.num_classes).to(self.data.device)
        for chunk in self.data.eval_chunks("test"):
            batch = self.data.eval_batch(chunk.split, chunk.start, chunk.stop)
            logits = self._remembered_teacher(chunk, batch)
            if logits is not None:
                scores.update(logits, batch.target)
        return scores.compute()

    def _close_epoch(self, student: Student) -> None:
        progress = student.progress
        evaluated = bool(progress.curve) and progress.curve[-1]["epoch"] == progress.epoch
        row: dict[str, Any] = progress.curve[-1] if evaluated else {"epoch": progress.epoch}
        row |= {f"train/{key}": value / self.data.steps_per_epoch for key, value in progress.sums.items()}
        if evaluated:
            student.keep_best()
        self._report(student, row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def save(self) -> None:
        """Commit every student's state."""
        for student, optimizer in zip(self.runs.values(), self._optimizers(), strict=True):
            student.check_finite()
            student.folder.save_state(student.state(optimizer))
        self._saved_at = time.monotonic()

    def _interrupt(self) -> None:
        self.save()
        epoch, step = self.position
        raise Interrupted(f"stopped at epoch {epoch}, step {step}, with a checkpoint")


def _refuse_non_finite(rows: dict[str, list[float]], epoch: int, steps: range, student: Student) -> None:
    """Name the first step with a total that is not a number, and the loss parts; the last checkpoint stays."""
    for step, total in zip(steps, rows.get("total", ()), strict=True):
        if math.isfinite(total):
            continue
        values = {key: row[step - steps.start] for key, row in rows.items() if key != "total"}
        bad = {key: value for key, value in values.items() if not math.isfinite(value)} or {"total": total}
        named = ", ".join(f"{key} = {value}" for key, value in bad.items())
        kept = student.folder.last_state_words()
        raise RunError(
            f"{student.name}: the loss is not finite at epoch {epoch}, step {step}: {named}; {kept}"
        )
