"""How many devices a run has, and what that means for its identity; mistakes in it are said before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from kdbench.utils.hardware import cuda_devices


def world_of(trainer: Mapping[str, Any]) -> int:
    """The number of ranks that a planned run will have."""
    return int(trainer["devices"]) * int(trainer["num_nodes"]) if trainer.get("strategy") == "ddp" else 1


def gpus_of(trainer: Mapping[str, Any]) -> int:
    """The CUDA devices that a job with such a trainer is to be given; `devices` may still be `auto`: all."""
    if trainer.get("strategy") != "ddp" or trainer.get("accelerator") == "cpu":
        return 1
    devices = trainer.get("devices", "auto")
    return max(1, len(cuda_devices()) if devices == "auto" else int(devices))


def check_alone(command: str) -> None:
    """ValueError where torchrun or srun started this process beside others like it: each would run the whole sweep."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        starter = "torchrun"
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        starter = "srun"
    else:
        return
    raise ValueError(
        f"{starter} started several processes of this command, and each would run all of its runs: give it without "
        f"{starter} (trainer=ddp starts the processes of each run by itself): {command}"
    )


def of_recipe(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What of the ranks changes weights: BatchNorm sees the rows of its own rank. Nothing for one rank."""
    if (world := world_of(trainer)) == 1:
        return {}
    return {"world": world} | ({"sync_batchnorm": True} if trainer.get("sync_batchnorm") else {})


def check_devices(trainer: DictConfig) -> None:
    """ValueError for devices that a run cannot have; `devices` is a number afterwards."""
    if trainer.get("strategy") is None:
        if trainer.devices not in (1, "1"):
            raise ValueError(f"trainer.devices={trainer.devices}: for several devices give trainer=ddp, too")
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
        raise ValueError(f"trainer.devices={trainer.devices}: here are {torch.cuda.device_count()} GPUs")
    if trainer.sync_batchnorm and not on_gpu:
        raise ValueError("trainer.sync_batchnorm=true needs GPUs: torch has no such BatchNorm for the CPU")


IN_PROCESS = ("basic", "cohort", "joblib")
"""Launchers of Hydra that run the jobs of a sweep in the process that was started, or in its forks."""


def check_sweep(arguments: Sequence[str], trainers: Sequence[DictConfig]) -> None:
    """ValueError where each rank would run the whole sweep: one that runs DDP in its own process, or was started by
    torchrun or srun."""
    if not {"-m", "--multirun"} & set(arguments):
        return
    check_alone(f"kdbench train {' '.join(arguments)}")
    if all(world_of(trainer) == 1 for trainer in trainers):
        return
    chosen = [word.partition("=")[2] for word in arguments if word.startswith("hydra/launcher=")]
    if chosen and chosen[-1] in IN_PROCESS:
        words = " ".join(word for word in arguments if not word.startswith("hydra/launcher="))
        raise ValueError(
            f"a sweep with trainer=ddp and hydra/launcher={chosen[-1]}: each job needs processes of its own, as "
            f"hydra/launcher=process, the default, gives it: kdbench train {words}"
        )
