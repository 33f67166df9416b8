"""`kdbench doctor`: check this machine: devices, data, teachers, extras."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from kdbench.models.registry import create_model
from kdbench.runs.answer_cache import cache_folders
from kdbench.teachers.store import cards
from kdbench.training.loggers import why_offline
from kdbench.utils.formatting import format_bytes
from kdbench.utils.hardware import free_cores, free_memory_gib, has_bf16_units
from kdbench.utils.paths import home
from kdbench.utils.provenance import installed_version, provenance

DATA = ("cifar100", "cifar10", "imagenet-1k", "dss", "dolly")
"""The folders in $KDBENCH_DATA that data sets are looked for in."""


def main(arguments: list[str]) -> int:
    """Print what was found, a line each, or as JSON; 0, or 1 where a training step does not work."""
    parser = argparse.ArgumentParser(prog="kdbench doctor")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    found = examined()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, words in in_words(found):
            print(f"{name:9} {words}")
    return 0 if found["step"]["works"] else 1


def examined() -> dict[str, Any]:
    """Versions, machine, data, store, tracking, extras, and the time of a small training step."""
    root = os.environ.get("KDBENCH_DATA")
    place = home()
    existing = next(path for path in (place, *place.parents) if path.exists())
    return {
        **{key: value for key, value in provenance().items() if key not in ("started", "threads")},
        "cores": free_cores(),
        "memory_gib": free_memory_gib(),
        "bf16": has_bf16_units(),
        "cuda": [_device(number) for number in range(torch.cuda.device_count())],
        "data": {"root": root, "found": [name for name in DATA if root and (Path(root) / name).is_dir()]},
        "home": {
            "path": str(place),
            "free": shutil.disk_usage(existing).free,
            "writable": os.access(existing, os.W_OK),
            "teachers": sorted({card.get("teacher", card["model"]) for card in cards()}),
            "caches": len(cache_folders()),
            "caches_bytes": sum(file.stat().st_size for one in cache_folders() for file in one.iterdir()),
        },
        "wandb": why_offline(timeout=2.0),
        "extras": extras(),
        "step": step(),
    }


def in_words(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the findings as pairs of a heading and a line."""
    versions, data, store = found["versions"], found["data"], found["home"]
    yield "kdbench", f"{versions.pop('kdbench')}, commit {found['commit'] or 'unknown'}"
    yield "versions", ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    units = "bf16 units" if found["bf16"] else "no bf16 units, so precision=bf16 is emulated and slow"
    memory = f"{found['memory_gib']:.1f} GiB free"
    yield "machine", f"{found['machine']['processor']}: {found['cores']} cores, {memory}, {units}"
    yield "GPU", ", ".join(found["cuda"]) or "none that torch can use; runs are on the CPU (trainer=cpu)"
    there = ", ".join(data["found"]) or f"none of {', '.join(DATA)}"
    root = (
        "is not set: give dataset.path=FOLDER, else data are downloaded; cifar100_mini and svamp are shipped"
    )
    yield "data", f"KDBENCH_DATA={data['root']} has {there}" if data["root"] else f"KDBENCH_DATA {root}"
    caches = f"{store['caches']} stored answers ({format_bytes(store['caches_bytes'])})"
    yield (
        "store",
        f"{store['path']}: teachers {', '.join(store['teachers'])}; {caches}; {format_bytes(store['free'])} free",
    )
    if not store["writable"]:
        yield "", "it cannot be written: set KDBENCH_HOME"
    yield (
        "W&B",
        f"offline ({found['wandb']}): runs are kept in their folders" if found["wandb"] else "can be reached",
    )
    for name, missing in found["extras"].items():
        said = f"lacks {', '.join(missing)}: pip install -e '.[{name}]'" if missing else "installed"
        yield f"[{name}]", said
    times = ", ".join(f"{threads} thread(s) {value:.0f} ms" for threads, value in found["step"]["ms"].items())
    yield "step", times if found["step"]["works"] else f"a training step fails: {found['step']['error']}"


def extras() -> dict[str, list[str]]:
    """Return the optional extras, each with its missing packages."""
    wanted = [Requirement(line) for line in requires("kdbench") or ()]
    return {
        extra: [
            one.name
            for one in wanted
            if one.marker and one.marker.evaluate({"extra": extra}) and not installed_version(one.name)
        ]
        for extra in metadata("kdbench").get_all("Provides-Extra") or ()
        if extra != "dev"
    }


def step() -> dict[str, Any]:
    """Milliseconds of a resnet20's step on 64 images of CIFAR's size, by threads: the median of three."""
    before = torch.get_num_threads()
    found: dict[str, Any] = {"works": True, "ms": {}}
    try:
        model, images = create_model("resnet20", 100), torch.randn(64, 3, 32, 32)
        for threads in dict.fromkeys((1, free_cores())):
            torch.set_num_threads(threads)
            found["ms"][threads] = statistics.median(_timed(model, images) for _ in range(3))
    except RuntimeError as error:
        found |= {"works": False, "error": str(error).splitlines()[0]}
    finally:
        torch.set_num_threads(before)
    return found


def _timed(model: torch.nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    model(images).square().mean().backward()
    return 1000 * (time.perf_counter() - started)


def _device(number: int) -> str:
    about = torch.cuda.get_device_properties(number)
    return f"{about.name} ({about.total_memory / 2**30:.0f} GiB)"
