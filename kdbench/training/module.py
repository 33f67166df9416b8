"""The LightningModule that distills: one or many students, one teacher call per batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from kdbench.core.errors import Interrupted, RunError
from kdbench.data.base import TaskData
from kdbench.data.positions import Chunk, EvalChunk
from kdbench.distributed.collectives import any_rank, mean, world_size
from kdbench.tasks import task_of
from kdbench.teachers.live import LiveTeacher
from kdbench.training.cuda_graph import Graph
from kdbench.training.evaluation import Scoring
from kdbench.training.step import Steps
from kdbench.training.student import Student
from kdbench.training.timing import Clock

Parts = dict[int, dict[str, Tensor]]
"""What a loss came to by optimiser step, and in it by part."""


class ChunkLoader:
    """A loader without workers, sampler and collation.

    It is no DataLoader, because Lightning warns about one without workers and adds a sampler under DDP. It has no
    length, because Lightning would keep that of the first epoch, which a resumed run starts in the middle.

    Args:
        chunks: Called at the start of each iteration; returns the chunks to yield.
    """

    def __init__(self, chunks: Callable[[], Iterable[Any]]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        return iter(self._chunks())


class StudentModule(LightningModule):
    """Trains `students` side by side on the same batches.

    Lightning's `training_step` is a chunk of consecutive optimiser steps (manual optimisation), so that its
    own cost is paid once per chunk. The position is ours (`Progress`): Lightning counts optimiser calls.

    Students may stand at different positions, as after a kill between two checkpoints: the batches begin where the
    one furthest behind stands, and those ahead wait until the batches have come to them. One that fails (a RunError
    or a ValueError of its own) drops out, and `on_failure` is told; when the last one fails, its error is raised.
    """

    def __init__(
        self,
        students: Sequence[Student],
        teacher: LiveTeacher | None,
        data: TaskData,
        seed: int,
        bf16: bool = False,
        evaluate_every: int = 1,
        save_every: float = 300.0,
        on_failure: Callable[[Student, Exception], None] = lambda *_: None,
        graph: Callable[[], Graph] | None = None,
        score_finally: bool = True,
        steps_per_chunk: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.students = nn.ModuleList(students)
        self.teacher = teacher
        self.data, self.seed, self.bf16 = data, seed, bf16
        self.evaluate_every, self.save_every = evaluate_every, save_every
        self.steps_per_chunk = steps_per_chunk
        self.stop_requested = False
        self.position = min(student.progress.position for student in students)
        """(epoch, step) of the next batch."""
        self._steps = Steps(data, teacher, seed, bf16, self.manual_backward, graph)
        self._on_failure, self._scores_finally = on_failure, score_finally
        self._failed: set[Student] = set()
        self.scoring = Scoring(students, teacher, data, bf16)
        self._saved_at = time.monotonic()
        self.live: dict[str, float] = {}
        """What a progress bar may show: means over the students."""
        self.teacher_scores: dict[str, float] = {}
        """The teacher's accuracy on the test split, once training has ended."""

    @property
    def runs(self) -> list[Student]:
        """All students, typed."""
        return [module for module in self.students if isinstance(module, Student)]

    @property
    def _in_epoch(self) -> list[Student]:
        """The students that have not failed and do not wait for a later epoch."""
        epoch, _ = self.position
        return [one for one in self.runs if one not in self._failed and one.progress.epoch == epoch]

    @property
    def is_last_epoch(self) -> bool:
        """Whether training ends with this epoch."""
        return bool(self.trainer.current_epoch + 1 == self.trainer.max_epochs)

    # ---- Lightning's hooks, in the order in which they come

    def setup(self, stage: str) -> None:
        """Keep the images, and stored answers, where the networks are."""
        self.data.to(self.device)
        for student in self.runs:
            if student.stored is not None and student.stored.cache is not None:
                student.stored.cache.to(self.device)

    def train_dataloader(self) -> ChunkLoader:
        """Return a loader of chunks from the position to the end of its epoch."""
        return ChunkLoader(lambda: self.data.train_chunks(self.position, self.steps_per_chunk))

    def val_dataloader(self) -> list[ChunkLoader]:
        """Return one loader of chunks for each split that every evaluation scores."""
        return [ChunkLoader(partial(self.data.eval_chunks, split)) for split in self.data.eval_splits]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the chunk itself: it is a position, and the data are on the device already."""
        return batch

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser per student."""
        return [student.schedule.optimizer(student, student.loss.dot) for student in self.runs]

    def on_train_start(self) -> None:
        """Give the optimisers what a resumed run had."""
        for student, optimizer in self._optimizers().items():
            student.restore_optimizer(optimizer)
            self._steps.ready(student, optimizer)

    def on_train_epoch_start(self) -> None:
        """Evaluate after every `evaluate_every` epochs of ours, and after the last one."""
        epoch, _ = self.position
        due = epoch % self.evaluate_every == 0 or self.is_last_epoch
        self.trainer.check_val_every_n_epoch = 1 if due else 10**9

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Run the optimiser steps of a chunk; stop between two of them when asked to, ranks together at its end."""
        started, clock = time.perf_counter(), Clock(self.device)
        parts: dict[Student, Parts] = {student: {} for student in self._in_epoch}
        step = chunk.start
        while step < chunk.stop and not (self.stop_requested and world_size() == 1):
            self._optimise(chunk.epoch, step, parts, clock)
            step += 1
        self._account(chunk, step, parts, clock, started)
        self.position = chunk.epoch, step
        if step == self.data.steps_per_epoch:
            return  # the end of the epoch evaluates and saves
        stop, save = any_rank(self.stop_requested, time.monotonic() - self._saved_at >= self.save_every)
        if stop:
            self._interrupt()
        if save:
            self.save()

    def validation_step(self, chunk: EvalChunk, _: int, dataloader_idx: int = 0) -> None:
        """Score every student on a chunk of a split."""
        if students := self._in_epoch:
            self.scoring.update(students, chunk)

    def on_validation_epoch_end(self) -> None:
        """Close the scores of this epoch; after the last one, score what is scored once."""
        split = (self.data.eval_splits + self.data.final_splits)[-1]
        for student in self._in_epoch:
            if not student.loss.needs_student:
                continue
            row: dict[str, Any] = {"epoch": student.progress.epoch}
            for name in self.data.eval_splits:
                scores = self.scoring.metric(student, name).compute()
                row |= {f"{name}/{key}": value for key, value in scores.items()}
            student.progress.curve.append(row)
            if self.is_last_epoch and self._scores_finally:
                self._score_finally(student)
            student.progress.recall = list(self.scoring.metric(student, split).recall)
        if scored := [student.progress.curve[-1] for student in self._in_epoch if student.progress.curve]:
            metric = task_of(self.data).metric
            self.live[metric] = statistics.fmean(
                row[f"{self.data.eval_splits[-1]}/{metric}"] for row in scored
            )

    def on_train_epoch_end(self) -> None:
        """Close the epoch: its row in the curve, the best weights so far, the checkpoint."""
        for student in self._in_epoch:
            with self._by_itself(student):
                student.close_epoch(
                    self.data.steps_per_epoch, self.data.steps_with_rows(student.progress.epoch)
                )
        self.position = self.position[0] + 1, 0
        if any_rank(self.stop_requested)[0]:
            self._interrupt()
        self.save()

    def on_train_end(self) -> None:
        """Score the teacher while everything is still on one device: Lightning moves the networks back after."""
        if self._scores_finally:
            self.teacher_scores = self.scoring.of_teacher("test")
        self.scoring.forget()

    # ---- the work

    def _score_finally(self, student: Student) -> None:
        """The splits that are scored once: with the weights of this epoch, the last, and with the best ones."""
        row, samples, before = student.progress.curve[-1], {}, student.best
        student.keep_best()
        is_best = not student.best or student.best is not before
        for split in self.data.final_splits:
            best = last = self.scoring.finally_on(student, split)
            row |= {f"{split}/{key}": value for key, value in last.items()}
            samples[split] = self.scoring.metric(student, split).samples
            if not is_best:
                with student.at_its_best():
                    best = self.scoring.finally_on(student, split)
            student.progress.final |= {f"{split}/{key}": value for key, value in best.items()}
        student.folder.write_samples(samples)

    def _optimizers(self) -> dict[Student, torch.optim.Optimizer]:
        found = self.optimizers(use_pl_optimizer=False)
        return dict(zip(self.runs, found if isinstance(found, list) else [found], strict=True))

    @contextmanager
    def _by_itself(self, student: Student) -> Iterator[None]:
        """What fails within ends this student alone, as long as there is another."""
        try:
            yield
        except (RunError, ValueError) as error:
            self._failed.add(student)
            self._on_failure(student, error)
            if len(self._failed) == len(self.students):
                raise

    def _optimise(self, epoch: int, step: int, parts: dict[Student, Parts], clock: Clock) -> None:
        """One optimiser step, on the batch of this position, of every student that has come to it.

        None where the protocol leaves the batch without a row.
        """
        students = [one for one in self._in_epoch if one.progress.step <= step]
        if not students or not self.data.rows(epoch, step, step + 1):
            return
        context, optimizers = self._steps.begin(epoch, step, students), self._optimizers()
        for student in students:
            with self._by_itself(student), clock.lap(student):
                parts[student][step] = self._steps.take(student, optimizers[student], context)

    def _account(
        self, chunk: Chunk, stop: int, parts: dict[Student, Parts], clock: Clock, started: float
    ) -> None:
        """Look at a chunk's losses (once: on a GPU this waits), and let every student move on to `stop`."""
        taken = {one: values for one, values in parts.items() if values and one not in self._failed}
        rows = {student: _by_part(steps) for student, steps in taken.items()}
        shared = time.perf_counter() - started - sum(clock.seconds(student) for student in parts)
        for student, steps in taken.items():
            seconds = clock.seconds(student) + shared * len(steps) / sum(map(len, taken.values()))
            images = self.data.rows(chunk.epoch, min(steps), stop)
            place = stop, self.data.steps_per_epoch, stop == chunk.stop
            with self._by_itself(student):
                student.take_steps(list(steps), rows[student], seconds, images, *place)
        for student in set(parts) - self._failed:
            student.progress.step = max(student.progress.step, stop)  # also where no batch had a row
        if not taken:
            return
        images = self.data.rows(chunk.epoch, min(map(min, taken.values())), stop)
        self.live["loss"] = statistics.fmean(statistics.fmean(rows[student]["total"]) for student in taken)
        self.live[f"{task_of(self.data).unit}_per_second"] = images / (time.perf_counter() - started)

    def save(self) -> None:
        """Commit the state of every student but of those that wait: theirs is on the disk."""
        optimizers = self._optimizers()
        for student in self._in_epoch:
            if student.progress.position == self.position:
                with self._by_itself(student):
                    student.check_finite()
                    student.folder.save_state(student.state(optimizers[student]))
        self._saved_at = time.monotonic()

    def _interrupt(self) -> None:
        self.save()
        epoch, step = self.position
        raise Interrupted(f"stopped at epoch {epoch}, step {step}, with a checkpoint")


def _by_part(steps: Parts) -> dict[str, list[float]]:
    """The losses of the steps by part, of the rows of all ranks."""
    keys = next(iter(steps.values()))
    return {key: mean(torch.stack([row[key] for row in steps.values()])).tolist() for key in keys}
