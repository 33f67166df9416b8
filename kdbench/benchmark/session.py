"""One call of `kdbench bench`: its options, and the measurements that it makes."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.benchmark import bare_loop as bare
from kdbench.benchmark import lightning_overhead as lightning
from kdbench.benchmark import pairs
from kdbench.benchmark import scaling as scale
from kdbench.benchmark import summary as summaries
from kdbench.benchmark.interleave import Limit
from kdbench.benchmark.settings import BATCH, SETTINGS, Setup, make_setup, reference_module
from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.config.messages import unknown
from kdbench.data.images.image_data import ImageData
from kdbench.runs.hydra_setup import register
from kdbench.utils.hardware import free_cores, has_bf16_units
from kdbench.utils.provenance import provenance

SCHEMA = 1
PARTS = ("pairs", "bare", "lightning", "memory", "scale")
QUICK_PAIR = "resnet56:resnet20"
SMALL_PAIR = "resnet20:resnet8"


@dataclass
class Options:
    """The options of the command line.

    Attributes:
        pairs: Pairs to measure, TEACHER:STUDENT.
        settings: Names in SETTINGS.
        parts: Names in PARTS.
        threads: CPU threads of both sides; None means the number of free cores.
        rounds: Least number of turns of each setting.
        seconds: Least duration of each setting.
        steps: Timed optimiser steps of a turn.
        dataset: Overrides of a run. By default CIFAR-100 if KDBENCH_DATA has it, else its shipped subset.
        skipped: Settings that this CPU cannot run, for the output.
    """

    pairs: list[str] = field(default_factory=lambda: list(summaries.TARGETS))
    settings: list[str] = field(default_factory=lambda: list(SETTINGS))
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    threads: int | None = None
    rounds: int = 5
    seconds: float = 20.0
    steps: int = 2
    dataset: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def load_options(arguments: list[str], quick: bool) -> Options:
    """Parse a command line.

    Raises:
        ValueError: An argument is unknown or has a wrong type; the message lists what is possible.
    """
    options: Any = OmegaConf.structured(_quick() if quick else Options())
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not KEY=VALUE")
        if key.split(".")[0] == "dataset":
            named = argument.startswith("dataset=")
            options.dataset = [*([] if named else options.dataset), argument]
            continue
        if key not in options or key == "skipped":
            raise ValueError(unknown(key, key, [name for name in options if name != "skipped"]))
        try:
            options[key] = value.split(",") if OmegaConf.is_list(options[key]) else value
        except OmegaConfBaseException as error:
            raise ValueError(f"{argument}: {str(error).splitlines()[0]}") from error
    loaded = OmegaConf.to_object(options)
    assert isinstance(loaded, Options)
    _check(loaded)
    return loaded


def _quick() -> Options:
    """Return the options of `--quick`: one pair, and bfloat16 only if the CPU supports it."""
    precision = "bf16" if has_bf16_units() else "fp32"
    settings = dict.fromkeys(["live-fp32", *(f"{kind}-{precision}" for kind in ("live", "cohort", "warm"))])
    skipped = [] if has_bf16_units() else ["live-bf16"]
    return Options(
        [QUICK_PAIR],
        list(settings),
        ["pairs"],
        rounds=2,
        seconds=0.0,
        steps=1,
        dataset=["dataset=cifar100_mini"],
        skipped=skipped,
    )


def _check(options: Options) -> None:
    networks = reference_module().NETWORKS
    for pair in options.pairs:
        if pair.count(":") != 1 or not set(pair.split(":")) <= set(networks):
            raise ValueError(f"pairs={pair}: a pair is TEACHER:STUDENT of {', '.join(networks)}")
    for key, possible in (("settings", SETTINGS), ("parts", PARTS)):
        if stray := [name for name in getattr(options, key) if name not in possible]:
            raise ValueError(f"{key}={stray[0]}; possible: {', '.join(possible)}")
    for key in ("threads", "rounds", "steps"):
        value = getattr(options, key)
        if value is not None and value < 1:
            raise ValueError(f"{key} must be at least 1, got {value}")


@contextmanager
def caches_in(folder: str) -> Iterator[None]:
    """Use a folder instead of the user's `KDBENCH_HOME` for teacher caches."""
    before = os.environ.get("KDBENCH_HOME")
    os.environ["KDBENCH_HOME"] = folder
    try:
        yield
    finally:
        os.environ.pop("KDBENCH_HOME")
        if before is not None:
            os.environ["KDBENCH_HOME"] = before


class Session:
    """The measurements of one command.

    Args:
        options: The options.
        say: Prints a line.
    """

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.threads = options.threads or min(torch.get_num_threads(), free_cores())
        self.limit = Limit(options.rounds, options.seconds, options.steps)

    def run(self) -> dict[str, Any]:
        """Measure all parts and return them as plain data."""
        register()
        torch.set_num_threads(self.threads)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, caches_in(folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no bf16 units")  # the output says so
            self.folder = Path(folder)
            self.dataset, self.data = self._images()
            result = self._about()
            for part in self.options.parts:
                result |= getattr(self, f"_{part}")()
        self.say(f"\nmeasured in {time.monotonic() - started:.0f} s")
        return {**result, "seconds": time.monotonic() - started}

    def _about(self) -> dict[str, Any]:
        facts = {**provenance(), "threads": self.threads}
        busy = os.getloadavg()[0]
        self.say(
            f"{facts['machine']['processor']}, {self.threads} thread(s) on both sides, batch {BATCH}, "
            f"{self.data.name}; bf16 units: {'yes' if has_bf16_units() else 'no'}; load at the start {busy:.1f}"
        )
        return {
            "schema": SCHEMA,
            "provenance": facts,
            "bf16_units": has_bf16_units(),
            "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            "load": busy,
            "dataset": self.data.name,
            "limit": {
                "rounds": self.limit.rounds,
                "seconds": self.limit.seconds,
                "steps": self.limit.steps,
            },
        }

    def _images(self) -> tuple[list[str], ImageData]:
        chosen = self.options.dataset
        if not any(override.startswith("dataset=") for override in chosen):
            supplied = any(override.startswith("dataset.path=") for override in chosen)
            root = os.environ.get("KDBENCH_DATA")
            at_hand = supplied or (root is not None and (Path(root) / "cifar100").is_dir())
            chosen = [f"dataset={'cifar100' if at_hand else 'cifar100_mini'}", *chosen]
            if not at_hand:
                self.say("CIFAR-100 is not found (KDBENCH_DATA, dataset.path): using the shipped subset")
        return chosen, self._load(chosen)

    def _load(self, dataset: list[str]) -> ImageData:
        cfg = compose_checked("train", [*dataset, f"schedule.batch_size={BATCH}"])
        data: ImageData = build(cfg.dataset, seed=0, batch_size=BATCH)
        data.setup("fit")
        return data

    def _setup(self, pair: str, *dataset: str) -> Setup:
        """Create the setup of a pair on the chosen images, or on those of `dataset`."""
        data = self._load(list(dataset)) if dataset else self.data
        return make_setup(pair, data, dataset or self.dataset, self.threads, self.folder)

    def _pairs(self) -> dict[str, Any]:
        settings = {name: SETTINGS[name] for name in self.options.settings}
        return {"pairs": [self._pair(pair, settings) for pair in self.options.pairs]}

    def _pair(self, pair: str, settings: dict[str, Any]) -> dict[str, Any]:
        pair_setup = self._setup(pair)
        work = pairs.work(pair, pair_setup.data.num_classes, BATCH)
        self.say(f"\n{pair.replace(':', ' -> ')}")
        rows = list(pairs.measure(pair_setup, settings, self.limit))
        summary = summaries.judge(pair, rows, work, BATCH)
        self.say(summaries.check_words(summary))
        self.say(summaries.reference_words(summary))
        for row in summary["rows"]:
            self.say(summaries.row_words(row))
            if row["cached"]:
                self.say(summaries.fill_words(row))
        for name in self.options.skipped:
            self.say(f"{SETTINGS[name].about:34} skipped: this CPU has no bf16 units")
        return summary

    def _bare(self) -> dict[str, Any]:
        result = {pair: bare.measure(self._setup(pair), self.limit) for pair in self.options.pairs}
        self.say("\nratio of a step to that of a bare loop of the same operations:")
        for pair, rows in result.items():
            for row in rows:
                over = f"{row['over']['cpu']:.3f} by CPU time, {row['over']['wall']:.3f} by wall time"
                self.say(f"{pair.replace(':', ' -> ')}, {row['setting']}: {over}")
        return {"bare": result}

    def _lightning(self) -> dict[str, Any]:
        small = self._setup(SMALL_PAIR, "dataset=cifar100_mini", "schedule.batch_size=4")
        result = lightning.measure(small)
        self.say(
            f"\nLightning: {result['step_us']:.0f} us an optimiser step at log_every={lightning.CHUNK}, which is "
            f"{result['percent_of_40_ms']:.2f} % of a step of {lightning.STEP_MS:.0f} ms"
        )
        return {"lightning": result}

    def _memory(self) -> dict[str, Any]:
        result = scale.memory(self._setup(SMALL_PAIR, "dataset=cifar100_mini"))
        self.say(
            f"\nmemory: {result['early_mib']:.0f} MiB after a quarter of {result['steps']} steps, "
            f"{result['late_mib']:.0f} MiB in the last quarter"
        )
        return {"memory": result}

    def _scale(self) -> dict[str, Any]:
        mini = self._setup(SMALL_PAIR, "dataset=cifar100_mini")
        pair = self._setup(QUICK_PAIR)
        result: dict[str, Any] = {
            "pair": QUICK_PAIR,
            "cohorts": scale.cohorts(pair, self.limit),
            "batches": scale.batches(mini, self.limit),
        }
        result["data"] = [scale.data(mini, self.limit, caches=True)]
        if self.data.name != mini.data.name:
            result["data"].append(scale.data(self._setup(SMALL_PAIR), self.limit))
        self.say("\nin steps of the reference, by CPU time:")
        for what in ("cohorts", "batches"):
            for row in result[what]:
                (name, size), *_ = row.items()
                self.say(f"{name} {size}: {row['cost']:.2f}, predicted {row['predicted']:.2f}")
        return {"scale": result}
