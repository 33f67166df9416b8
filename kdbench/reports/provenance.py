"""The provenance of runs: machines, versions, configurations, cohorts and caches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdbench.reports.read import Record, Run
from kdbench.runs.identity import Flat, flat

UNCHANGED = "unchanged training set"
"""Printed protocol of runs that use the whole training set as it is."""

ORIGIN = ("machine", "CPUs", "threads", "python", "torch", "lightning", "kdbench", "commit")

NOT_RECIPE = ("output", "tags", "table_name", "progress", "resume", "overwrite", "seed")
"""Configuration keys that may differ between runs of the same setting."""


def origin(record: Record) -> dict[str, str]:
    """Return where a run was made, by `ORIGIN`; `-` for what its record does not contain."""
    machine, versions = record.get("machine") or {}, record.get("versions") or {}
    sessions = record.get("sessions") or []
    values: Mapping[str, Any] = {
        "machine": machine.get("processor"),
        "CPUs": machine.get("cpus"),
        "threads": record.get("threads"),
        **{name: versions.get(name) for name in ("python", "torch", "lightning", "kdbench")},
        "commit": record.get("commit"),
    }
    texts = {name: "-" if values[name] is None else str(values[name]) for name in ORIGIN}
    return texts | {"resumed": f"{len(sessions)} times" if sessions else ""}


def origins(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return every different origin, with the number of its runs."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for run in runs:
        key = tuple(origin(run.record).items())
        counts[key] = counts.get(key, 0) + 1
    return [{"runs": str(count), **dict(key)} for key, count in counts.items()]


def configuration(record: Record) -> Flat:
    """Return the configuration of a run without names and places, as `schedule.lr` and the like."""
    config = {key: value for key, value in (record.get("config") or {}).items() if key not in NOT_RECIPE}
    return flat(config)


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys in which the recorded configurations are not all the same."""
    configs = [configuration(run.record) for run in runs if "config" in run.record]
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if len({config.get(name) for config in configs}) > 1]


def footnotes(runs: Sequence[Run]) -> list[str]:
    """Return sentences on how training times and teacher outputs came about, where that is not the usual way."""
    records = [run.record for run in runs]
    notes = ["Training times exclude start-up and evaluation."]
    if cohorts := _losses(record for record in records if record.get("cohort")):
        notes.append(f"Trained in cohorts, each run with its share of the common time: {cohorts}.")
    stored = [
        record for record in records if isinstance((record.get("teacher") or {}).get("answers"), Mapping)
    ]
    if stored:
        storages = sorted({str(record["teacher"]["answers"]["storage"]) for record in stored})
        notes.append(f"Teacher outputs were read from a cache ({', '.join(storages)}): {_losses(stored)}.")
    protocols = list(dict.fromkeys(str(record.get("protocol", "")) for record in records))
    if any(protocols):
        notes.append(f"Protocols: {' | '.join(protocol or UNCHANGED for protocol in protocols)}.")
    return notes


def _losses(records: Iterable[Record]) -> str:
    return ", ".join(sorted({record["names"]["loss"] for record in records}))
