"""The results file of a table, results.jsonl: a first line with the command, then one record per run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.reports.read import Record, Run
from kdbench.reports.samples import FEW, samples_of

RECORD_KEYS = (
    "schema",
    "names",
    "table",
    "task",
    "variant",
    "protocol",
    "seed",
    "state",
    "reason",
    "results",
    "parameters",
    "seconds",
    "stage",
    "cohort",
    "teacher",
    "hashes",
    "config",
    "threads",
    "machine",
    "versions",
    "commit",
)
"""What the file keeps of a record."""

_PLACES = {"dataset": ("path",), "teacher": ("checkpoint", "checkpoints", "init")}
"""Configuration keys that hold paths of the machine that made a run."""


@dataclass(frozen=True)
class Results:
    """The content of a results file.

    Attributes:
        command: The command that made it.
        records: One record per run.
        missing: Runs of the table that are not done, each with the reason.
    """

    command: str
    records: list[Record]
    missing: list[str]


def read_results(file: Path) -> Results:
    """Read a results file."""
    head, *records = map(json.loads, file.read_text().splitlines())
    return Results(head["command"], records, head.get("missing", []))


def encode_results(command: str, records: Sequence[Record], missing: Sequence[str] = ()) -> bytes:
    """Return the content of a results file, without paths of this machine.

    Args:
        command: The command that made the runs.
        records: Their records; `folder`, if there, is where samples are read from.
        missing: Runs of the table that are not done, each with the reason.
    """
    lines = [json.dumps({"command": command} | ({"missing": list(missing)} if missing else {}))]
    for record in map(without_places, records):
        samples = samples_of(Run(record, record.get("folder", "")))[:FEW]
        content = {key: record[key] for key in RECORD_KEYS if key in record}
        lines.append(json.dumps(content | ({"samples": samples} if samples else {})))
    return ("\n".join(lines) + "\n").encode()


def without_places(record: Record) -> Record:
    """Return a record without the places where this machine keeps data, weights and runs."""
    if "config" not in record:
        return record
    config = {key: value for key, value in record["config"].items() if key != "output"}
    for section, names in _PLACES.items():
        if isinstance(config.get(section), dict):
            config[section] = {key: value for key, value in config[section].items() if key not in names}
    return {**record, "config": _last_parts(config)}


def _last_parts(value: Any) -> Any:
    """Replace every absolute path by its last part."""
    if isinstance(value, dict):
        return {key: _last_parts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_last_parts(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
