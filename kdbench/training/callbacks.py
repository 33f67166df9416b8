"""Lightning callbacks: the progress line, and stopping on signals."""

import signal
import time
from types import FrameType
from typing import Any, ClassVar

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kdbench.tasks import task_of
from kdbench.training.module import StudentModule


class ProgressLine(Callback):
    """Shows a progress bar of the run on a terminal, and otherwise a line per epoch."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs = title, epochs
        self.console = Console()
        self._bar: Progress | None = None
        self._task: TaskID = TaskID(0)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start the bar at the position of the run, on a terminal."""
        assert isinstance(module, StudentModule)
        if not self.console.is_terminal:
            return
        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(TextColumn("{task.description}"), *columns, console=self.console)
        total = self.epochs * module.data.steps_per_epoch
        self._task = self._bar.add_task(self.title, total=total, completed=self._done(module))
        self._bar.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        """Advance the bar."""
        assert isinstance(module, StudentModule)
        if self._bar:
            self._bar.update(self._task, completed=self._done(module), description=self._words(module))

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Print a line for the epoch if there is no bar."""
        assert isinstance(module, StudentModule)
        if not self._bar:
            self.console.print(self._words(module), highlight=False, soft_wrap=True)

    def on_exception(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Restore the terminal."""
        self._stop()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Stop the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()

    @staticmethod
    def _done(module: StudentModule) -> int:
        epoch, step = module.position
        return (epoch - 1) * module.data.steps_per_epoch + step

    def _words(self, module: StudentModule) -> str:
        live, task = module.live, task_of(module.data)
        words = f"{self.title} epoch {module.position[0]}/{self.epochs}"
        if "loss" in live:
            words += f" loss {live['loss']:.3f}"
        if task.metric in live:
            words += f" {task.title} {live[task.metric]:.2f} %"
        if (speed := f"{task.unit}_per_second") in live:
            words += f" {live[speed]:.0f} {task.unit}/s"
        return words


class StopOnSignal(Callback):
    """Stops training on Ctrl-C or SIGTERM after the current step, with a checkpoint.

    A second signal, more than a second later, stops at once. One within that second is taken for the same: torchrun
    forwards signals that its processes receive from the terminal as well. Lightning's own handlers would lose the
    steps since the last checkpoint.
    """

    asked_by: ClassVar[int] = signal.SIGINT
    """The signal that was received last in this process."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._asked = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Install the handlers."""
        assert isinstance(module, StudentModule)

        def ask(number: int, frame: FrameType | None) -> None:
            StopOnSignal.asked_by = number
            if module.stop_requested and time.monotonic() - self._asked > 1:
                raise KeyboardInterrupt(number)
            self._asked = self._asked if module.stop_requested else time.monotonic()
            module.stop_requested = True

        self._before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_exception(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Restore the previous handlers."""
        self._restore()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore the previous handlers."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
