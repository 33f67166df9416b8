"""Start, connect and end the processes (ranks) of one run with `trainer=ddp`.

Lightning's own launcher is not used: when another rank fails it kills rank 0 before the failure is in the record.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy as FabricDDPStrategy
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig
from torch import Tensor

from kdbench.core.errors import Interrupted, RunError
from kdbench.distributed.collectives import rank, reduce_gradients, share_statistics, world_size
from kdbench.distributed.devices import world_of
from kdbench.distributed.heartbeat import GRACE, HeartbeatMonitor, failed_child
from kdbench.jobs.worker import FOLLOWS

_GROUP_TIMEOUT = timedelta(days=7)
"""Long, because ranks wait while rank 0 waits for a folder lock; the heartbeat notices lost ranks."""
INTERRUPTED = 130


_monitor: HeartbeatMonitor | None = None


@contextmanager
def together(trainer: DictConfig) -> Iterator[None]:
    """Run the body on all ranks of a run, in one process group. A rank that fails ends the others.

    Ranks other than 0 print nothing except their own failure.

    Args:
        trainer: The `trainer` section of the configuration.

    Raises:
        RunError: Another rank failed.
    """
    global _monitor
    if world_of(trainer) == 1 or world_size() > 1:
        yield
        return
    _monitor = monitor = HeartbeatMonitor(_start_ranks(trainer))
    monitor.start()
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        warnings.simplefilter("ignore")
    try:
        yield
    except Interrupted:
        _finish(monitor)
        if rank():
            sys.exit(INTERRUPTED)
        raise
    except BaseException as error:
        reason = _reason(monitor, error)
        _fail(monitor, error)
        if reason is not None:
            raise RunError(reason) from error
        raise
    _finish(monitor)


@contextmanager
def explained(on_loss: Callable[[RunError], None]) -> Iterator[None]:
    """Turn an error that another rank's failure caused into a RunError that names that failure.

    Args:
        on_loss: Called before this process is ended by force because a rank was lost.
    """
    if _monitor is None:
        yield
        return
    _monitor.on_loss = on_loss
    try:
        yield
    except Exception as error:
        if (reason := _reason(_monitor, error)) is not None:
            raise RunError(reason) from error
        raise


def _reason(monitor: HeartbeatMonitor, error: BaseException) -> str | None:
    """Return how another rank failed if that caused this error."""
    own = isinstance(error, (RunError, ValueError)) or not isinstance(error, Exception)
    return None if own else monitor.cause(error)


def _finish(monitor: HeartbeatMonitor) -> None:
    """Wait for all ranks at the end of the run; heartbeats stop first."""
    monitor.stop()
    dist.barrier()
    for child in monitor.children:
        child.wait()


def _fail(monitor: HeartbeatMonitor, error: BaseException) -> None:
    """Announce the failure of this rank, and end without output if another rank was first."""
    expected = isinstance(error, (RunError, ValueError))
    first = monitor.announce(str(error) if expected else f"{type(error).__name__}: {error}")
    monitor.stop()
    if rank() and not first:
        sys.exit(1)
    if not first:  # let a failed child print its traceback
        with suppress(subprocess.TimeoutExpired):
            for child in monitor.children:
                child.wait(GRACE)
    monitor.end_children()


# ---- start


def _start_ranks(trainer: DictConfig) -> list[subprocess.Popen[bytes]]:
    """Start the other ranks, unless torchrun or srun has, and create the process group."""
    environment, children, started = _environment(), [], threading.Event()
    if not environment.creates_processes_externally:
        children = _spawn_ranks(int(trainer.devices), int(trainer.num_nodes))
        threading.Thread(target=_guard_start, args=(children, started), daemon=True).start()
    for name in ("lightning.fabric", "lightning.pytorch"):  # silences their messages about ranks
        logging.getLogger(name).setLevel(logging.ERROR)
    strategy = FabricDDPStrategy(cluster_environment=environment, timeout=_GROUP_TIMEOUT)
    devices: dict[str, Any] = {key: trainer[key] for key in ("accelerator", "devices", "num_nodes")}
    Fabric(**devices, strategy=strategy).launch()
    started.set()
    return children


def _guard_start(children: Sequence[subprocess.Popen[bytes]], started: threading.Event) -> None:
    """End this process if a child fails before the process group exists, which would block for ever."""
    while not started.wait(1):
        if failure := failed_child(children):
            print(f"kdbench: {failure} before all ranks had started", file=sys.stderr, flush=True)
            for child in children:
                child.kill()
            os._exit(1)


def _environment() -> ClusterEnvironment:
    """Return the environment that started this process: torchrun, srun (not sbatch alone), or a command line."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect() and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _spawn_ranks(devices: int, nodes: int) -> list[subprocess.Popen[bytes]]:
    """Start this command again for every other device, with the CPU threads divided among the ranks."""
    command = _command()
    if nodes > 1:
        raise RunError(
            f"trainer.num_nodes={nodes}: kdbench starts the processes of one machine only; for several machines "
            f"use torchrun or srun (docs/ddp.md)"
        )
    threads = max(1, torch.get_num_threads() // devices)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    os.environ |= {"WORLD_SIZE": str(devices), "NODE_RANK": "0", "LOCAL_RANK": "0"}
    return [
        subprocess.Popen(
            command, env={**os.environ, FOLLOWS: "1", "LOCAL_RANK": str(number)}, stdin=subprocess.PIPE
        )
        for number in range(1, devices)
    ]


def _command() -> list[str]:
    import __main__

    name = __main__.__spec__.name if __main__.__spec__ else ""
    if name not in ("kdbench.cli.train", "kdbench.cli.train_teacher"):
        raise RunError(
            "trainer=ddp repeats the command of this process for each device, and this process is not a run: use "
            "kdbench train or kdbench train-teacher, or start all processes with torchrun (docs/ddp.md)"
        )
    return [sys.executable, "-m", name, *sys.argv[1:]]


# ---- Lightning's trainer


class SingleReduction(DDPStrategy):
    """Lightning's DDP without torch's wrapper: one mean of all gradients over ranks after each backward pass.

    The wrapper regroups parameters after its first backward pass. With more than two ranks this changes the order of
    summation, and a resumed run would not be the same to the bit. The wrapper also searches each graph for unused
    parameters, which is not necessary here: every rank has the same graph.
    """

    def configure_ddp(self) -> None:
        """Broadcast the network of rank 0 instead of wrapping it."""
        assert self.lightning_module is not None
        for tensor in (*self.lightning_module.parameters(), *self.lightning_module.buffers()):
            dist.broadcast(tensor.data, src=0)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients over ranks."""
        assert self.lightning_module is not None
        reduce_gradients(self.lightning_module.parameters())


def of_trainer(trainer: DictConfig) -> dict[str, Any]:
    """Return the arguments of Lightning's trainer for a `trainer` section."""
    if world_of(trainer) == 1:
        return {"strategy": "auto"}
    strategy = SingleReduction(cluster_environment=_environment(), timeout=_GROUP_TIMEOUT)
    return {"strategy": strategy, "use_distributed_sampler": False}


class OneNetwork(Callback):
    """Evaluate the same network on all ranks: the one that is stored."""

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Copy rank 0's BatchNorm statistics to all ranks."""
        share_statistics(module)
