"""The number of devices of a run, its effect on the identity, and early checks of both."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from kdbench.utils.hardware import cuda_devices


def world_of(trainer: Mapping[str, Any]) -> int:
    """Return the number of ranks of a run, from its `trainer` section with a numeric `devices`."""
    return int(trainer["devices"]) * int(trainer["num_nodes"]) if trainer.get("strategy") == "ddp" else 1


def gpus_of(trainer: Mapping[str, Any]) -> int:
    """Return the number of CUDA devices that a job needs; `devices=auto` means all."""
    if trainer.get("strategy") != "ddp" or trainer.get("accelerator") == "cpu":
        return 1
    devices = trainer.get("devices", "auto")
    return max(1, len(cuda_devices()) if devices == "auto" else int(devices))


def check_alone(command: str) -> None:
    """Check that neither torchrun nor srun started this process: each of their processes would run the whole sweep.

    Args:
        command: The command line, for the message.

    Raises:
        ValueError: One of them did.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        starter = "torchrun"
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        starter = "srun"
    else:
        return
    raise ValueError(
        f"{starter} started several processes of this command, and each would run the whole sweep: start it without "
        f"{starter} (trainer=ddp starts the processes of each run): {command}"
    )


def of_recipe(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the recipe that depend on the ranks; none for one rank.

    The number of ranks changes weights, because BatchNorm normalises over the rows of its own rank.
    """
    if (world := world_of(trainer)) == 1:
        return {}
    return {"world": world} | ({"sync_batchnorm": True} if trainer.get("sync_batchnorm") else {})


def check_devices(trainer: DictConfig) -> None:
    """Check the devices of a run and replace `devices=auto` by a number.

    Raises:
        ValueError: The devices are impossible, or not available on this machine.
    """
    if trainer.get("strategy") is None:
        if trainer.devices not in (1, "1"):
            raise ValueError(f"trainer.devices={trainer.devices}: several devices need trainer=ddp")
        return
    if trainer.strategy != "ddp":
        raise ValueError(f"trainer.strategy={trainer.strategy}; possible: ddp")
    on_gpu = trainer.accelerator != "cpu" and torch.cuda.is_available()
    if trainer.devices == "auto":
        here = torch.cuda.device_count() if on_gpu else 1
        trainer.devices = int(os.environ.get("LOCAL_WORLD_SIZE", here))
    for key in ("devices", "num_nodes"):
        if not isinstance(trainer[key], int) or trainer[key] < 1:
            more = " or auto" if key == "devices" else ""
            raise ValueError(f"trainer.{key}={trainer[key]} must be a number from 1{more}")
    if on_gpu and trainer.devices > torch.cuda.device_count():
        raise ValueError(
            f"trainer.devices={trainer.devices}: this machine has {torch.cuda.device_count()} GPUs"
        )
    if trainer.sync_batchnorm and not on_gpu:
        raise ValueError(
            "trainer.sync_batchnorm=true needs GPUs: torch has no synchronised BatchNorm on the CPU"
        )


IN_PROCESS = ("basic", "cohort", "joblib")
"""Hydra launchers that run the jobs of a sweep in the starting process or in its forks."""


def check_sweep(arguments: Sequence[str], trainers: Sequence[DictConfig]) -> None:
    """Check that the ranks of a sweep do not each run the whole sweep.

    Args:
        arguments: The command line.
        trainers: The `trainer` sections of its runs.

    Raises:
        ValueError: The sweep runs DDP in its own process, or was started by torchrun or srun.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return
    check_alone(f"kdbench train {' '.join(arguments)}")
    if all(world_of(trainer) == 1 for trainer in trainers):
        return
    chosen = [word.partition("=")[2] for word in arguments if word.startswith("hydra/launcher=")]
    if chosen and chosen[-1] in IN_PROCESS:
        words = " ".join(word for word in arguments if not word.startswith("hydra/launcher="))
        raise ValueError(
            f"a sweep with trainer=ddp and hydra/launcher={chosen[-1]}: each job needs its own processes; use "
            f"hydra/launcher=process, the default: kdbench train {words}"
        )
