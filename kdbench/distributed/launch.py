"""Several processes for one run (`trainer=ddp`): how they start, meet, and end together.

Lightning's own launcher is not used: it kills rank 0 when another rank fails, before that can say so in the record.
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
from kdbench.distributed.heartbeat import GRACE, Watch, lost
from kdbench.jobs.worker import FOLLOWS

_PATIENCE = timedelta(days=7)
"""Of the process group: ranks may wait for rank 0 as long as that waits for a folder; who is lost, the watch finds."""
INTERRUPTED = 130


_watch: Watch | None = None


@contextmanager
def together(trainer: DictConfig) -> Iterator[None]:
    """Within: all ranks of the run are there and in one process group; one that fails ends the others.

    Ranks beside 0 print nothing but a failure that is theirs.
    """
    global _watch
    if world_of(trainer) == 1 or world_size() > 1:
        yield
        return
    _watch = watch = Watch(_meet(trainer))
    watch.start()
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        warnings.simplefilter("ignore")
    try:
        yield
    except Interrupted:
        _part(watch)
        if rank():
            sys.exit(INTERRUPTED)
        raise
    except BaseException as error:
        reason = _reason(watch, error)
        _fail(watch, error)
        if reason is not None:
            raise RunError(reason) from error
        raise
    _part(watch)


@contextmanager
def explained(on_loss: Callable[[RunError], None]) -> Iterator[None]:
    """Within: what fails because another rank did is a RunError that says how that failed. on_loss: what is to be
    done where this process has to end without coming back."""
    if _watch is None:
        yield
        return
    _watch.on_loss = on_loss
    try:
        yield
    except Exception as error:
        if (reason := _reason(_watch, error)) is not None:
            raise RunError(reason) from error
        raise


def _reason(watch: Watch, error: BaseException) -> str | None:
    """How another rank failed, where this one does for that."""
    own = isinstance(error, (RunError, ValueError)) or not isinstance(error, Exception)
    return None if own else watch.others(error)


def _part(watch: Watch) -> None:
    """All ranks have come to the end: nobody is missed from here on."""
    watch.stop()
    dist.barrier()
    for child in watch.children:
        child.wait()


def _fail(watch: Watch, error: BaseException) -> None:
    """Say it to the others; end quietly where it has been said already."""
    expected = isinstance(error, (RunError, ValueError))
    first = watch.tell(str(error) if expected else f"{type(error).__name__}: {error}")
    watch.stop()
    if rank() and not first:
        sys.exit(1)
    if not first:  # a child that failed has a traceback to print
        with suppress(subprocess.TimeoutExpired):
            for child in watch.children:
                child.wait(GRACE)
    watch.end_children()


# ---- the beginning


def _meet(trainer: DictConfig) -> list[subprocess.Popen[bytes]]:
    """Start the further ranks, where nobody else has, and form the process group of all."""
    environment, children, met = _environment(), [], threading.Event()
    if not environment.creates_processes_externally:
        children = _repeat(int(trainer.devices), int(trainer.num_nodes))
        threading.Thread(target=_mind, args=(children, met), daemon=True).start()
    for name in ("lightning.fabric", "lightning.pytorch"):  # their notes on who is there
        logging.getLogger(name).setLevel(logging.ERROR)
    strategy = FabricDDPStrategy(cluster_environment=environment, timeout=_PATIENCE)
    devices: dict[str, Any] = {key: trainer[key] for key in ("accelerator", "devices", "num_nodes")}
    Fabric(**devices, strategy=strategy).launch()
    met.set()
    return children


def _mind(children: Sequence[subprocess.Popen[bytes]], met: threading.Event) -> None:
    """End this process if one of the others does before all have met: it would wait for ever."""
    while not met.wait(1):
        if how := lost(children):
            print(f"kdbench: {how} before all ranks had met", file=sys.stderr, flush=True)
            for child in children:
                child.kill()
            os._exit(1)


def _environment() -> ClusterEnvironment:
    """Who started this process: torchrun, SLURM's srun (not sbatch alone), or a command line."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect() and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _repeat(devices: int, nodes: int) -> list[subprocess.Popen[bytes]]:
    """This very command once more for every further device, the processors divided among all."""
    command = _command()
    if nodes > 1:
        raise RunError(
            f"trainer.num_nodes={nodes}: kdbench starts the processes of one machine; start those of several by "
            f"torchrun or srun (docs/ddp.md)"
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
            "trainer=ddp starts its further processes by the command of this one, which is no run: give it to "
            "kdbench train or kdbench train-teacher, or start all processes by torchrun (docs/ddp.md)"
        )
    return [sys.executable, "-m", name, *sys.argv[1:]]


# ---- what Lightning's trainer is told


class OneReduction(DDPStrategy):
    """Lightning's DDP without torch's wrapper: one mean over ranks of all gradients, after each backward.

    The wrapper sorts parameters into other groups after its first backward. With more than two ranks that is another
    order of summing, and a resumed run would not be the same to the bit. It also has to search each step's graph for
    parameters that the loss leaves out; here every rank takes the same way through the graph.
    """

    def configure_ddp(self) -> None:
        """Begin with one network; the wrapper stays away."""
        assert self.lightning_module is not None
        for tensor in (*self.lightning_module.parameters(), *self.lightning_module.buffers()):
            dist.broadcast(tensor.data, src=0)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Reduce what this backward left."""
        assert self.lightning_module is not None
        reduce_gradients(self.lightning_module.parameters())


def of_trainer(trainer: DictConfig) -> dict[str, Any]:
    """Arguments of the trainer of a run with this section."""
    if world_of(trainer) == 1:
        return {"strategy": "auto"}
    strategy = OneReduction(cluster_environment=_environment(), timeout=_PATIENCE)
    return {"strategy": strategy, "use_distributed_sampler": False}


class OneNetwork(Callback):
    """All ranks score one network: the one that is stored."""

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Take over rank 0's running statistics."""
        share_statistics(module)
