"""Records as runs write them, with made-up numbers, for the tests of reports."""

import json
from pathlib import Path
from typing import Any

from kdbench.config.resolvers import pairs_of
from kdbench.reports.aggregate import Series, gather
from kdbench.reports.read import Run


def record(loss: str = "kd", seed: int = 0, top1: float = 70.0, **changes: Any) -> dict[str, Any]:
    """Return the record of a finished run, by default of resnet56 -> resnet20 on CIFAR-100.

    Args:
        loss: Name of the loss.
        seed: Seed.
        top1: Test accuracy at the last epoch.
        changes: Replacements for keys of the record, or one of `teacher`, `student`, `dataset`, `epochs`, `best`,
            `curve`, `scores`, `weights`, `path` and `lr`.
    """
    teacher, student = changes.pop("teacher", "resnet56"), changes.pop("student", "resnet20")
    dataset, epochs = changes.pop("dataset", "cifar100"), changes.pop("epochs", 240)
    best = changes.pop("best", top1)
    curve = changes.pop("curve", [[epochs, top1]])
    last = {"epoch": epochs, "top1": top1, "top5": 90.0, "agreement": 75.0, **changes.pop("scores", {})}
    terms = {} if loss == "ce" else {loss: {"_target_": f"kdbench.objectives.{loss}.{loss.upper()}"}}
    published_weights = {"kd": {"ce": 0.1, "kd": 0.9}}  # the papers' weights
    if (pair := f"{teacher}:{student}") in (values := pairs_of("wttm")["values"]):
        published_weights["wttm"] = {"ce": 1.0, "wttm": values[pair]["beta"]}
    weights = changes.pop("weights", published_weights.get(loss, {"ce": 1.0, **dict.fromkeys(terms, 1.0)}))
    config = {
        "dataset": {
            "_target_": f"kdbench.data.{dataset}",
            "validation": 0,
            "path": changes.pop("path", None),
        },
        "schedule": {
            "_target_": "kdbench.training.schedule.Schedule",
            "epochs": epochs,
            "lr": changes.pop("lr", 0.05),
        },
        "trainer": {"_target_": "lightning.Trainer", "accelerator": "cpu", "max_epochs": epochs},
        "teacher": {"_target_": "kdbench.teachers.live.live_teacher", "name": teacher},
        "student": {"_target_": "kdbench.models.registry.create_model", "name": student},
        "loss": {"_target_": "kdbench.losses.composite.Loss", "objectives": terms, "weights": weights},
        **{"seed": seed, "precision": "fp32", "output": "runs"},
    }
    hashes = {"recipe": f"{loss}-{student}-{epochs}-{seed}-{config['schedule']['lr']}", "data": "d" * 64}
    hashes |= {} if loss == "ce" else {"teacher": f"{teacher}-weights"}
    complete = {
        **{"schema": 1, "state": "done", "reason": None, "is_stage": False, "table": None, "cohort": None},
        "names": {"dataset": dataset, "loss": loss, "teacher": teacher, "student": student},
        **{"seed": seed, "protocol": "", "hashes": hashes, "config": config},
        "versions": {"python": "3.11.7", "torch": "2.15.0", "lightning": "2.6.6", "kdbench": "0.1.0"},
        **{"commit": "0123456789ab", "machine": {"processor": "a processor", "cpus": 2}, "threads": 1},
        "teacher": {"name": teacher, "top1": 72.5, "hash": f"{teacher}-weights", "answers": "live"},
        "parameters": {"student": 1000, "at_test": 1000},
        "results": {
            "last": last,
            "best_on_test": {**last, "epoch": epochs - 1, "top1": best},
            "curve": [{"epoch": epoch, "test/top1": value} for epoch, value in curve],
        },
        "seconds": 100.0 + seed,
    }
    return {**complete, **changes}


def write(folder: Path, *records: dict[str, Any]) -> Path:
    """Write a run folder for each record below `folder`; return `folder`."""
    for place, one in enumerate(records):
        run = folder / f"{one.get('names', {}).get('loss', 'run')}-{one.get('seed')}-{place}"
        run.mkdir(parents=True)
        (run / "record.json").write_text(json.dumps(one))
    return folder


def series_of(*records: dict[str, Any]) -> list[Series]:
    """Return the series that these records make."""
    return gather([Run(one, f"run {place}") for place, one in enumerate(records)])[0]


def three_losses(folder: Path) -> Path:
    """Write runs of ce, kd and wttm with three seeds each, and a failed run; return `folder`."""
    records = [
        record(loss, seed, top1 + 0.1 * seed, curve=[[1, 10.0], [240, top1 + 0.1 * seed]])
        for loss, top1 in (("ce", 69.0), ("kd", 70.6), ("wttm", 71.9))
        for seed in range(3)
    ]
    return write(folder, *records, record("kd", 9, state="failed", reason="a <b> & c"))
