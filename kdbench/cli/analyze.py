"""`kdbench analyze RUN_OR_CHECKPOINT`: measure and plot a student, or any checkpoint."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from kdbench.analysis.networks import Side, Source, other_side, source, subject_side, teacher_side
from kdbench.analysis.report import show, write
from kdbench.analysis.study import Study, study
from kdbench.cli.errors import command
from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.data.images.image_data import ImageData
from kdbench.runs.hydra_setup import register
from kdbench.tasks import Capability, task_of
from kdbench.teachers.names import display_name
from kdbench.utils.precision import disable_tf32

DEFAULT_GAMMA = 0.25
"""The order of Renyi's entropy where no loss names one: 1 / T at the T = 4 of the CIFAR recipes."""

_OF_THE_RUN = "of_the_run"
_POWER_TRANSFORMS = ("TTM", "WTTM", "ABTTM")


@command
def main(arguments: list[str]) -> int:
    """Analyse a network, write the results and print them."""
    words = ["json=true" if argument == "--json" else argument for argument in arguments]
    register()
    path, overrides = _split(words)
    found = source(Path(path)) if path else None
    if (found is None or found.record is None) and not any(word.startswith("model=") for word in overrides):
        raise ValueError(
            f"{path} is no run: which network is it of? kdbench analyze model=NAME checkpoint={path}"
            if path
            else "what is to be analysed? Give the folder of a finished run, or model=NAME checkpoint=FILE"
        )
    cfg = compose_checked("analyze", [*_taken_from(found, overrides), *overrides])
    dataset = _choice(found, overrides)
    analysis = _analyse(cfg, found, f"kdbench analyze {shlex.join(arguments)}", dataset)
    folder = Path(cfg.output) if cfg.output else _folder(cfg, found, dataset)
    write(analysis, folder, cfg.pictures)
    if cfg.json:
        print(json.dumps(analysis.numbers, indent=2, sort_keys=True))
    else:
        show(analysis, folder)
    return 0


def _split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split a command line into the path before the overrides, or None, and the overrides."""
    if words and (Path(words[0]).exists() or "=" not in words[0]):
        return words[0], list(words[1:])
    return None, list(words)


def _taken_from(found: Source | None, overrides: Sequence[str]) -> list[str]:
    """Return overrides that choose the data, network and teacher of a run, as far as the command line chooses none.

    They become options of their config groups, so that their keys can be overridden and are checked.
    """
    if found is None or found.record is None:
        return []
    config, store = found.record["config"], ConfigStore.instance()
    nodes = {"dataset": config["dataset"], "model": found.network}
    if found.is_student:
        nodes["teacher"] = config["teacher"]
    for group, node in nodes.items():
        store.store(group=group, name=_OF_THE_RUN, node=node)
    given = {word.split("=")[0] for word in overrides}
    return [f"{group}={_OF_THE_RUN}" for group in nodes if group not in given]


def _choice(found: Source | None, overrides: Sequence[str]) -> str:
    """Return the name of the data set on the command line, or of the run."""
    given = [word.partition("=")[2] for word in overrides if word.startswith("dataset=")]
    named = found.record["names"]["dataset"] if found and found.record else "cifar100"
    return given[-1] if given else str(named)


def _analyse(cfg: DictConfig, found: Source | None, command: str, dataset: str) -> Study:
    if found is None and cfg.checkpoint is None:
        raise ValueError("checkpoint has no value yet; give checkpoint=FILE")
    if found is not None and cfg.checkpoint is not None:
        raise ValueError(f"{found.file} and checkpoint={cfg.checkpoint}: give one of them")
    found = found or source(Path(cfg.checkpoint))
    gamma, whence = _gamma(cfg.gamma, found)
    if cfg.threads is not None:
        if cfg.threads < 1:
            raise ValueError(f"threads must be at least 1, got {cfg.threads}")
        torch.set_num_threads(cfg.threads)
    disable_tf32()
    data = build(cfg.dataset, seed=0, batch_size=1)
    if reason := task_of(data).why_not(Capability.INSTRUMENTS, data):
        raise ValueError(f"dataset {data.name}: {reason}")
    if cfg.split not in data.splits:
        hint = "; dataset.validation=N holds a part out" if cfg.split == "validation" else ""
        raise ValueError(f"split={cfg.split}; {data.name} has {', '.join(data.splits)}{hint}")
    data.setup("test")
    subject, reference = _sides(cfg, found, data, dataset)
    data.to("cuda" if torch.cuda.is_available() else "cpu")
    return study(
        data,
        cfg.split,
        subject,
        reference,
        gamma=gamma,
        gamma_from=whence,
        images=cfg.images,
        command=command,
        notes=_notes(found, data, reference),
    )


def _sides(cfg: DictConfig, found: Source, data: ImageData, dataset: str) -> tuple[Side, Side | None]:
    subject = subject_side("student" if found.is_student else "model", cfg.model, found.file, data)
    if cfg.against:
        return subject, other_side(Path(cfg.against), cfg.model, data)
    names = {"dataset": dataset, "teacher": display_name(cfg.teacher), "student": cfg.model.name}
    return subject, teacher_side(cfg, names, data)


def _gamma(given: float | None, found: Source) -> tuple[float, str]:
    """Return the order of Renyi's entropy, which is the power of the transform, and the source of the value."""
    if given is not None:
        if not 0 < given < float("inf"):
            raise ValueError(f"gamma must be positive and finite, got {given}")
        return given, "given"
    config: Mapping[str, Any] = found.record["config"] if found.record else {}
    terms = (config.get("loss") or {}).get("objectives") or {}
    by_class = {str(node["_target_"]).rpartition(".")[2]: node for node in terms.values()}
    for name in _POWER_TRANSFORMS:
        if name in by_class:
            return float(by_class[name]["gamma"]), f"gamma of the run's {name}"
    if "KD" in by_class:
        return 1 / by_class["KD"]["temperature"], "1 / T of the run's KD"
    return DEFAULT_GAMMA, "the default, 1 / T at T = 4"


def _notes(found: Source, data: ImageData, reference: Side | None) -> list[str]:
    """Return a note for each difference between the analysis and the run."""
    record = found.record
    notes: list[str] = []
    if record is None:
        return notes
    if record["hashes"]["data"] != data.fingerprint:
        notes.append("The images are not those of the run.")
    had = record.get("teacher", {}).get("hash")
    if reference is not None and reference.role == "teacher" and had and had != reference.hash:
        notes.append(f"The teacher is not the one of the run: weights {reference.hash[:12]}, not {had[:12]}.")
    return notes


def _folder(cfg: DictConfig, found: Source | None, dataset: str) -> Path:
    """Return the default folder of the results: in the run folder, or next to other runs."""
    what = f"{cfg.split}-against-{Path(cfg.against).stem}" if cfg.against else str(cfg.split)
    if found is not None and found.record is not None:
        stem = "" if found.file.stem == "student" else f"{found.file.stem}-"
        return found.file.parent / "analysis" / f"{stem}{what}"
    file = found.file if found else Path(cfg.checkpoint)
    return Path("runs") / "analysis" / f"{file.stem}-{dataset}-{what}"
