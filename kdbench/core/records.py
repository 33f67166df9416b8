"""Read the records of runs (record.json). Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
"""The version of the format of records."""


class OtherVersionError(ValueError):
    """A record that another version of kdbench wrote."""


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.json.

    Raises:
        OtherVersionError: Another version of kdbench wrote it.
        ValueError: It cannot be read.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else None
        raise OtherVersionError(f"{path} is of another version of kdbench (schema {schema}, here {SCHEMA})")
    return record


def records(
    folder: Path, on_error: Callable[[ValueError], None] = lambda _: None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (run folder, record) of every readable run in a folder, sorted by path.

    Args:
        folder: The folder.
        on_error: Called with the error of each record that cannot be read.
    """
    for path in sorted(folder.glob("**/record.json")):
        try:
            yield path.parent, read_record(path)
        except ValueError as error:
            on_error(error)


def finished_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return (run folder, record) of the finished run in a folder, or of the only one below it.

    Raises:
        ValueError: There is no finished run, or more than one, or its network needs an objective to predict.
    """
    runs = [(path, record) for path, record in records(folder) if not record.get("is_stage")]
    done = [(path, record) for path, record in runs if record["state"] == "done"]
    if len(done) != 1:
        states = ", ".join(f"{path.name} ({record['state']})" for path, record in runs) or "none"
        raise ValueError(f"{folder} should be or hold one finished run; runs there: {states}")
    ((path, record),) = done
    if path.joinpath("student.predictor.safetensors").is_file():
        raise ValueError(
            f"{path} is a student that answers with a head of its loss ({record['names']['loss']}), "
            f"without which it cannot be a teacher"
        )
    return path, record
