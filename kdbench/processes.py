"""Several processes for one run (`trainer=ddp`): how they start, meet, and end together.

Lightning's own launcher is not used: it kills rank 0 when another rank fails, before that can say so in the record.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
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

from kdbench.core import RunError
from kdbench.devices import world_of
from kdbench.ranks import rank, reduce_gradients, share_statistics, world_size
from kdbench.student import Interrupted

SILENCE = 20.0
"""Seconds without a sign of life after which a rank is taken for lost."""
GRACE = 10.0
"""Seconds that a process has to end by itself once a rank is lost; it may wait for that rank for ever."""
_PATIENCE = timedelta(days=7)
"""Of the process group: ranks may wait for rank 0 as long as that waits for a folder; who is lost, the watch finds."""
INTERRUPTED = 130


class Watch(threading.Thread):
    """Every rank gives signs of life and looks for those of the others, in the store that torch's ranks meet in.

    children: the ranks from 1 that this process has started.
    """

    def __init__(self, children: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        super().__init__(daemon=True, name="watch")
        self.children = children
        self.on_loss: Callable[[RunError], None] = lambda _: None
        """What is to be written where a rank is lost and the main thread never comes back."""
        self.reason: str | None = None
        self._found, self._stopped = threading.Event(), threading.Event()
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        meeting = dist.TCPStore(host, port, timeout=timedelta(seconds=SILENCE))  # type: ignore[attr-defined]
        self._store = dist.PrefixStore("kdbench", meeting)  # type: ignore[attr-defined]
        self._heard: dict[int, tuple[bytes, float]] = {}

    def run(self) -> None:
        """Look once a second; where a rank is lost, let the process end, if need be by force."""
        while self.reason is None and not self._stopped.wait(1):
            try:
                self.reason = self._look()
            except RuntimeError:  # of the store, which rank 0 keeps
                self.reason = "rank 0 has ended without a word"
        if self._stopped.is_set():
            return
        self._found.set()
        if not self._stopped.wait(GRACE):
            self.on_loss(RunError(str(self.reason)))
            self._say(f"kdbench: {self.reason}")
            self.end_children()
            os._exit(1)

    def stop(self) -> None:
        """Look no more: the ranks part."""
        self._stopped.set()
        self.join()

    def tell(self, what: str) -> bool:
        """Tell the others that this rank fails; whether it is the first to do so."""
        mine = f"rank {rank()} failed: {what}"
        try:
            return self._store.compare_set("failure", "", mine).decode() == mine
        except RuntimeError:
            return False

    def others(self, error: Exception) -> str | None:
        """How another rank failed, where `error` may come from that; waits until it is known."""
        if not isinstance(error, RuntimeError):
            return None
        of_the_group = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        self._found.wait(SILENCE + 5 if of_the_group else 2)
        return self.reason

    def end_children(self) -> None:
        """Leave no process behind."""
        for child in self.children:
            child.kill()
            child.wait()

    def _look(self) -> str | None:
        self._store.set(str(rank()), str(time.monotonic()))
        if self._store.check(["failure"]):
            return self._store.get("failure").decode()
        for number, child in enumerate(self.children, 1):
            if code := child.poll():
                return f"rank {number} " + (
                    f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                )
        return next(filter(None, map(self._silence, range(1, world_size()))), None) if rank() == 0 else None

    def _silence(self, other: int) -> str | None:
        beat = self._store.get(str(other)) if self._store.check([str(other)]) else b""
        now = time.monotonic()
        last, since = self._heard.get(other, (b"", now))
        self._heard[other] = beat, (since := since if beat == last else now)
        return f"rank {other} gave no sign of life for {SILENCE:g} s" if now - since > SILENCE else None

    def _say(self, text: str) -> None:
        if rank() == 0 or self.reason == "rank 0 has ended without a word":
            print(text, file=sys.stderr, flush=True)


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
        _fail(watch, error)
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
    except (RunError, ValueError):
        raise
    except Exception as error:
        if reason := _watch.others(error):
            raise RunError(reason) from error
        raise


def _part(watch: Watch) -> None:
    """All ranks have come to the end: nobody is missed from here on."""
    watch.stop()
    dist.barrier()
    for child in watch.children:
        child.wait()


def _fail(watch: Watch, error: BaseException) -> None:
    """Say it to the others, and end quietly where it has been said already."""
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
    environment, children = _environment(), []
    if not environment.creates_processes_externally:
        children = _repeat(int(trainer.devices), int(trainer.num_nodes))
    for name in ("lightning.fabric", "lightning.pytorch"):  # their notes on who is there
        logging.getLogger(name).setLevel(logging.ERROR)
    strategy = FabricDDPStrategy(cluster_environment=environment, timeout=_PATIENCE)
    devices: dict[str, Any] = {key: trainer[key] for key in ("accelerator", "devices", "num_nodes")}
    Fabric(**devices, strategy=strategy).launch()
    return children


def _environment() -> ClusterEnvironment:
    """Who started this process: torchrun, SLURM's srun with a task for each rank, or a command line."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:
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
        subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": str(number)}, stdin=subprocess.DEVNULL)
        for number in range(1, devices)
    ]


def _command() -> list[str]:
    import __main__

    name = __main__.__spec__.name if __main__.__spec__ else ""
    if name not in ("kdbench.train", "kdbench.train_teacher"):
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
