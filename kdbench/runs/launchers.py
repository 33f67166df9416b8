"""How Hydra starts the jobs of a sweep: each in a process of its own (`process`), or all at once (`cohort`)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kdbench.config._hydra import BasicLauncher

if TYPE_CHECKING:
    from kdbench.jobs.job import Job as Process
    from kdbench.jobs.job import JobResult, Limits


@dataclass(frozen=True)
class Job:
    """What a command line asks for once: a configuration, and which choice of each group made it."""

    cfg: DictConfig
    choices: dict[str, str]


def current_job(cfg: DictConfig) -> Job:
    """The job that Hydra is at."""
    return Job(cfg, dict(HydraConfig.get().runtime.choices))


class CohortLauncher(BasicLauncher):
    """Composes every job as Hydra's own launcher does, and gives the task all of them in one call."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweep, in cohorts."""
        together: Any = self.task_function
        self.task_function = current_job
        composed = super().launch(job_overrides, initial_job_idx)
        together([job.return_value for job in composed])
        return composed


def _trainer_in(words: Sequence[str]) -> dict[str, str]:
    """What a command line says of its trainer."""
    given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    keys = {key.removeprefix("trainer."): value for key, value in given.items() if key.startswith("trainer.")}
    return {"strategy": given.get("trainer", ""), **keys}


class ProcessLauncher(Launcher):
    """Starts every job as `python -m kdbench.cli.train ...`; a kill of one is nothing to the others.

    jobs: side by side; null: one for each CUDA device, else for each `threads` cores, as far as the memory goes.
    threads, devices: CPU threads and CUDA devices of each; devices null: those that trainer=ddp asks for, else one.
    timeout: minutes that a job may take, or null.
    retries: how often one that fails is tried again, from its checkpoint. pin: keep each on cores of its own.
    """

    def __init__(
        self,
        jobs: int | None = None,
        threads: int = 1,
        devices: int | None = None,
        timeout: float | None = None,
        retries: int = 1,
        pin: bool = False,
    ) -> None:
        self.jobs, self.threads, self.devices = jobs, threads, devices
        self.timeout, self.retries, self.pin = timeout, retries, pin

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's words for: this sweep."""
        self.config, self.task_function = config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweep. The task is told how each ended; what it returned there is returned here."""
        from kdbench.jobs.scheduler import JobScheduler

        folder = Path(self.config.hydra.sweep.dir).absolute()
        made = [self._job(folder, list(overrides)) for overrides in job_overrides]
        limits = self._limits(job_overrides)
        _print(f"{len(made)} jobs, {limits.at_once} at a time; logs: {folder / 'logs'}")
        scheduler = JobScheduler(limits, _say, _print)
        ended = {one.job: one for one in scheduler.run(made)}
        if scheduler.stopped_by is not None:
            _print(f"{len(made) - len(ended)} jobs have not begun; the same command with resume=true goes on")
            raise KeyboardInterrupt(scheduler.stopped_by)
        if len(made) > 1:
            _print(f"side by side: kdbench report {self.config.output} --print")
        return [
            self._returned(ended[job], overrides) for job, overrides in zip(made, job_overrides, strict=True)
        ]

    def _job(self, folder: Path, overrides: list[str]) -> Process:
        from kdbench.jobs.job import Job
        from kdbench.utils.hashing import digest

        words = ("-m", f"kdbench.cli.{self.config.hydra.job.config_name}", *overrides, "progress=false")
        log = folder / "logs" / f"{digest(overrides)}.txt"
        return Job(" ".join(overrides), words, log, again=("resume=true",))

    def _limits(self, job_overrides: Sequence[Sequence[str]]) -> Limits:
        from kdbench.distributed.devices import gpus_of
        from kdbench.jobs.job import Limits
        from kdbench.utils.hardware import max_parallel_runs

        devices = self.devices or max(gpus_of(_trainer_in(words)) for words in job_overrides)
        at_once = max_parallel_runs(self.threads, devices) if self.jobs is None else self.jobs
        timeout = None if self.timeout is None else 60 * self.timeout
        return Limits(
            min(at_once, len(job_overrides)), self.threads, devices, timeout, self.retries, self.pin
        )

    def _returned(self, ended: JobResult, overrides: Sequence[str]) -> JobReturn:
        from kdbench.core.errors import RunError

        code = 0 if ended.state == "done" else 1
        as_the_cohorts: Any = self.task_function
        as_the_cohorts(code)
        returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
        if not code:
            returned.return_value = ended.value
        elif not self.config.hydra.sweeper._target_.endswith("BasicSweeper"):  # one that wants values
            returned.status, returned.return_value = JobStatus.FAILED, RunError(ended.reason or "failed")
        return returned


_SHOWN_AS = "hydra_plugins.kdbench"


def _print(line: str) -> None:
    print(line, flush=True)


def _say(ended: JobResult) -> None:
    reason = f": {ended.reason} (log: {ended.job.log})" if ended.reason else ""
    value = "" if ended.value is None else f" with {ended.value:.2f}"
    _print(f"{ended.state}{value} in {ended.seconds:.0f} s: {ended.job.title}{reason}")
    if ended.state == "done" and (line := _result_in(ended.job.log)):
        _print(f"  {line}")


def _result_in(log: Path) -> str:
    """The line of a log that says what the run came to."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("test ")), "")


def register() -> None:
    """Make the launchers of conf/hydra/launcher known to Hydra.

    Hydra takes launchers from the package `hydra_plugins` alone and looks their names up in it, so this module is
    shown there under a second name: what is installed then stays one package, and works wherever it can be imported.
    """
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ImportError:  # nobody else has a plugin
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    sys.modules[_SHOWN_AS] = sys.modules[__name__]
    setattr(plugins, _SHOWN_AS.rpartition(".")[2], sys.modules[__name__])
    for launcher in (CohortLauncher, ProcessLauncher):
        launcher.__module__ = _SHOWN_AS
        Plugins.instance().register(launcher)
        launcher.__module__ = __name__  # by which a job of submitit finds it in another process
