"""Hydra launchers: each job of a sweep in a process of its own (`process`), or all in cohorts (`cohort`)."""

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
    """One job of a command line: its configuration, and the option chosen in each config group."""

    cfg: DictConfig
    choices: dict[str, str]


def current_job(cfg: DictConfig) -> Job:
    """Return the job that Hydra is running."""
    return Job(cfg, dict(HydraConfig.get().runtime.choices))


class CohortLauncher(BasicLauncher):
    """Composes every job as Hydra's basic launcher does, and hands all of them to the task in one call."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweep in cohorts."""
        together: Any = self.task_function
        self.task_function = current_job
        composed = super().launch(job_overrides, initial_job_idx)
        together([job.return_value for job in composed])
        return composed


def _trainer_in(words: Sequence[str]) -> dict[str, str]:
    """Return the options of the trainer on a command line."""
    given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    keys = {key.removeprefix("trainer."): value for key, value in given.items() if key.startswith("trainer.")}
    return {"strategy": given.get("trainer", ""), **keys}


class ProcessLauncher(Launcher):
    """Starts every job as `python -m kdbench.cli.train ...`. Jobs are isolated: killing one does not affect the others.

    Args:
        jobs: Jobs at a time; None is one for each CUDA device, or else for each `threads` cores, if memory permits.
        threads: CPU threads of each job.
        devices: CUDA devices of each job; None is the number that trainer=ddp asks for, or else one.
        timeout: Minutes that a job may take, or None.
        retries: How often a failed job is started again, from its checkpoint.
        pin: Pin each job to CPU cores of its own.
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
        """Receive the sweep from Hydra."""
        self.config, self.task_function = config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweep. The task is called with the exit code of each job.

        Raises:
            KeyboardInterrupt: A signal ended the sweep.
        """
        from kdbench.jobs.scheduler import JobScheduler

        folder = Path(self.config.hydra.sweep.dir).absolute()
        jobs = [self._job(folder, list(overrides)) for overrides in job_overrides]
        limits = self._limits(job_overrides)
        _print(f"{len(jobs)} jobs, {limits.at_once} at a time; logs: {folder / 'logs'}")
        scheduler = JobScheduler(limits, _print_result, _print)
        ended = {one.job: one for one in scheduler.run(jobs)}
        if scheduler.stopped_by is not None:
            _print(
                f"{len(jobs) - len(ended)} jobs have not started; the same command with resume=true continues"
            )
            raise KeyboardInterrupt(scheduler.stopped_by)
        if len(jobs) > 1:
            _print(f"side by side: kdbench report {self.config.output} --print")
        return [
            self._returned(ended[job], overrides) for job, overrides in zip(jobs, job_overrides, strict=True)
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
        task: Any = self.task_function
        task(code)
        returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
        if not code:
            returned.return_value = ended.value
        elif not self.config.hydra.sweeper._target_.endswith("BasicSweeper"):  # a search, which needs values
            returned.status, returned.return_value = JobStatus.FAILED, RunError(ended.reason or "failed")
        return returned


_PLUGIN_NAME = "hydra_plugins.kdbench"


def _print(line: str) -> None:
    print(line, flush=True)


def _print_result(ended: JobResult) -> None:
    reason = f": {ended.reason} (log: {ended.job.log})" if ended.reason else ""
    value = "" if ended.value is None else f" with {ended.value:.2f}"
    _print(f"{ended.state}{value} in {ended.seconds:.0f} s: {ended.job.title}{reason}")
    if ended.state == "done" and (line := _result_in(ended.job.log)):
        _print(f"  {line}")


def _result_in(log: Path) -> str:
    """Return the line of a log with the result of the run, or an empty string."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("test ")), "")


def register() -> None:
    """Make the launchers of conf/hydra/launcher known to Hydra.

    Hydra finds launchers only in the package `hydra_plugins`, so this module is registered there under a second name.
    kdbench thereby stays one installed package.
    """
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ImportError:  # no other plugin is installed
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    sys.modules[_PLUGIN_NAME] = sys.modules[__name__]
    setattr(plugins, _PLUGIN_NAME.rpartition(".")[2], sys.modules[__name__])
    for launcher in (CohortLauncher, ProcessLauncher):
        launcher.__module__ = _PLUGIN_NAME
        Plugins.instance().register(launcher)
        launcher.__module__ = __name__  # a job of submitit imports it by this name
