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
from kdbench.training.student_run import StepLosses, StudentRun
from kdbench.training.timing import Stopwatch

LossesByStep = dict[int, dict[str, Tensor]]
"""The values of a loss by optimiser step, and in it by part."""


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
    """Trains students side by side on the same batches.

    Lightning's `training_step` is a chunk of consecutive optimiser steps (manual optimisation), so that its own cost
    is paid once per chunk. The position is counted here (`Progress`), because Lightning counts optimiser calls.

    Students may be at different positions, for example after a kill between two checkpoints. The batches start where
    the one furthest behind is, and the others wait. A student that fails with a RunError or ValueError drops out; when
    the last one fails, its error is raised.

    Args:
        runs: The students and their runs.
        teacher: The live teacher, or None.
        data: The data, set up.
        seed: Seed of generators that are used within steps, e.g. for dropout.
        bf16: Whether students run under bfloat16 autocast.
        evaluate_every: Epochs between two evaluations; the last epoch is always evaluated.
        save_every: Seconds between two checkpoints within an epoch.
        on_failure: Called with a student's run that drops out, and its error.
        graph: Makes the graphs that record and replay steps; None runs every step as it is.
        score_finally: Whether to score the final splits and the teacher at the end.
        steps_per_chunk: Optimiser steps of a chunk.

    Attributes:
        position: Epoch (from 1) and step (from 0) of the next batch.
        stop_requested: Set to stop after the current step, with a checkpoint.
        live: Means over the students for a progress bar: `loss`, the main score, `images_per_second`.
        teacher_scores: The scores of the teacher on the test split, when training has ended.
    """

    def __init__(
        self,
        runs: Sequence[StudentRun],
        teacher: LiveTeacher | None,
        data: TaskData,
        seed: int,
        bf16: bool = False,
        evaluate_every: int = 1,
        save_every: float = 300.0,
        on_failure: Callable[[StudentRun, Exception], None] = lambda *_: None,
        graph: Callable[[], Graph] | None = None,
        score_finally: bool = True,
        steps_per_chunk: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.runs = list(runs)
        self.students = nn.ModuleList(run.student for run in runs)
        self.teacher = teacher
        self.data, self.seed, self.bf16 = data, seed, bf16
        self.evaluate_every, self.save_every = evaluate_every, save_every
        self.steps_per_chunk = steps_per_chunk
        self.stop_requested = False
        self.position = min(run.student.progress.position for run in runs)
        self.scoring = Scoring([run.student for run in runs], teacher, data, bf16)
        self.live: dict[str, float] = {}
        self.teacher_scores: dict[str, float] = {}
        self._steps = Steps(data, teacher, seed, bf16, self.manual_backward, graph)
        self._on_failure, self._scores_finally = on_failure, score_finally
        self._failed: set[StudentRun] = set()
        self._saved_at = time.monotonic()

    @property
    def _current_runs(self) -> list[StudentRun]:
        """The runs that have not failed and do not wait for a later epoch."""
        epoch, _ = self.position
        return [run for run in self.runs if run not in self._failed and run.student.progress.epoch == epoch]

    @property
    def is_last_epoch(self) -> bool:
        """Whether training ends with this epoch."""
        return bool(self.trainer.current_epoch + 1 == self.trainer.max_epochs)

    # ---- Lightning's hooks, in the order in which they are called

    def setup(self, stage: str) -> None:
        """Move the data and stored answers to the device of the networks."""
        self.data.to(self.device)
        for run in self.runs:
            answers = run.student.answers
            if answers is not None and answers.cache is not None:
                answers.cache.to(self.device)

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
        """Return one optimiser per student."""
        return [run.student.schedule.optimizer(run.student, run.student.loss.dot) for run in self.runs]

    def on_train_start(self) -> None:
        """Restore the optimisers of resumed runs."""
        for run, optimizer in self._optimizers().items():
            run.student.restore_optimizer(optimizer)
            self._steps.ready(run.student, optimizer)

    def on_train_epoch_start(self) -> None:
        """Evaluate after every `evaluate_every` epochs, counted over resumes, and after the last one."""
        epoch, _ = self.position
        is_due = epoch % self.evaluate_every == 0 or self.is_last_epoch
        self.trainer.check_val_every_n_epoch = 1 if is_due else 10**9

    def training_step(self, chunk: Chunk, _: int) -> None:
        """Run the optimiser steps of a chunk; a requested stop takes effect after a step, under DDP after the chunk."""
        started, stopwatch = time.perf_counter(), Stopwatch(self.device)
        losses: dict[StudentRun, LossesByStep] = {run: {} for run in self._current_runs}
        step = chunk.start
        while step < chunk.stop and not (self.stop_requested and world_size() == 1):
            self._optimise(chunk.epoch, step, losses, stopwatch)
            step += 1
        self._record(chunk, step, losses, stopwatch, started)
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
        if runs := self._current_runs:
            self.scoring.update([run.student for run in runs], chunk)

    def on_validation_epoch_end(self) -> None:
        """Put the scores of this epoch into the curves; after the last epoch also score the final splits."""
        split = (self.data.eval_splits + self.data.final_splits)[-1]
        for run in self._current_runs:
            student = run.student
            if not student.loss.needs_student:
                continue
            row: dict[str, Any] = {"epoch": student.progress.epoch}
            for name in self.data.eval_splits:
                scores = self.scoring.metric(student, name).compute()
                row |= {f"{name}/{key}": value for key, value in scores.items()}
            student.progress.curve.append(row)
            if self.is_last_epoch and self._scores_finally:
                self._score_finally(run)
            student.progress.recall = list(self.scoring.metric(student, split).recall)
        rows = [run.student.progress.curve[-1] for run in self._current_runs if run.student.progress.curve]
        if rows:
            metric = task_of(self.data).metric
            key = f"{self.data.eval_splits[-1]}/{metric}"
            self.live[metric] = statistics.fmean(row[key] for row in rows)

    def on_train_epoch_end(self) -> None:
        """Close the epoch: metrics, best weights, checkpoint."""
        for run in self._current_runs:
            with self._drop_out_on_error(run):
                steps = self.data.steps_with_rows(run.student.progress.epoch)
                run.close_epoch(self.data.steps_per_epoch, steps)
        self.position = self.position[0] + 1, 0
        if any_rank(self.stop_requested)[0]:
            self._interrupt()
        self.save()

    def on_train_end(self) -> None:
        """Score the teacher while it is still on the device: Lightning moves the networks back afterwards."""
        if self._scores_finally:
            self.teacher_scores = self.scoring.score_teacher("test")
        self.scoring.clear()

    # ---- the work

    def _score_finally(self, run: StudentRun) -> None:
        """Score the final splits with the weights of the last epoch and with the best ones."""
        student = run.student
        row, samples = student.progress.curve[-1], {}
        is_best = run.best.update(student) or not run.best.weights
        for split in self.data.final_splits:
            best = last = self.scoring.score(student, split)
            row |= {f"{split}/{key}": value for key, value in last.items()}
            samples[split] = self.scoring.metric(student, split).samples
            if not is_best:
                with run.best.applied_to(student):
                    best = self.scoring.score(student, split)
            student.progress.final |= {f"{split}/{key}": value for key, value in best.items()}
        run.folder.write_samples(samples)

    def _optimizers(self) -> dict[StudentRun, torch.optim.Optimizer]:
        optimizers = self.optimizers(use_pl_optimizer=False)
        several = optimizers if isinstance(optimizers, list) else [optimizers]
        return dict(zip(self.runs, several, strict=True))

    @contextmanager
    def _drop_out_on_error(self, run: StudentRun) -> Iterator[None]:
        """End a student that fails within the context; the error of the last one is raised."""
        try:
            yield
        except (RunError, ValueError) as error:
            self._failed.add(run)
            self._on_failure(run, error)
            if len(self._failed) == len(self.runs):
                raise

    def _optimise(
        self, epoch: int, step: int, losses: dict[StudentRun, LossesByStep], stopwatch: Stopwatch
    ) -> None:
        """Take one optimiser step of every student that has come to this position; none if the batch has no rows."""
        runs = [run for run in self._current_runs if run.student.progress.step <= step]
        if not runs or not self.data.rows(epoch, step, step + 1):
            return
        context, optimizers = (
            self._steps.begin(epoch, step, [run.student for run in runs]),
            self._optimizers(),
        )
        for run in runs:
            with self._drop_out_on_error(run), stopwatch.measure(run):
                losses[run][step] = self._steps.take(run.student, optimizers[run], context)

    def _record(
        self,
        chunk: Chunk,
        stop: int,
        losses: dict[StudentRun, LossesByStep],
        stopwatch: Stopwatch,
        started: float,
    ) -> None:
        """Read a chunk's losses, which waits for the GPU, and let every run record its steps up to `stop`."""
        taken = {run: values for run, values in losses.items() if values and run not in self._failed}
        by_part = {run: _by_part(steps) for run, steps in taken.items()}
        elapsed = time.perf_counter() - started
        shared = elapsed - sum(stopwatch.seconds(run) for run in losses)
        for run, steps in taken.items():
            rows = StepLosses(
                steps=list(steps),
                losses=by_part[run],
                seconds=stopwatch.seconds(run) + shared * len(steps) / sum(map(len, taken.values())),
                images=self.data.rows(chunk.epoch, min(steps), stop),
                stop=stop,
                ends_line=stop == chunk.stop,
            )
            with self._drop_out_on_error(run):
                run.record_steps(rows, self.data.steps_per_epoch)
        for run in losses.keys() - self._failed:
            progress = run.student.progress
            progress.step = max(progress.step, stop)  # also where no batch had a row
        if taken:
            images = self.data.rows(chunk.epoch, min(map(min, taken.values())), stop)
            self.live["loss"] = statistics.fmean(statistics.fmean(by_part[run]["total"]) for run in taken)
            self.live[f"{task_of(self.data).unit}_per_second"] = images / (time.perf_counter() - started)

    def save(self) -> None:
        """Commit the state of every student, except of those that wait: theirs is on the disk."""
        optimizers = self._optimizers()
        for run in self._current_runs:
            if run.student.progress.position == self.position:
                with self._drop_out_on_error(run):
                    run.save_state(optimizers[run])
        self._saved_at = time.monotonic()

    def _interrupt(self) -> None:
        self.save()
        epoch, step = self.position
        raise Interrupted(f"stopped at epoch {epoch}, step {step}, with a checkpoint")


def _by_part(steps: LossesByStep) -> dict[str, list[float]]:
    """Return the losses of the steps by part, over the rows of all ranks."""
    keys = next(iter(steps.values()))
    return {key: mean(torch.stack([row[key] for row in steps.values()])).tolist() for key in keys}
