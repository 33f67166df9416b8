"""Read runs back from run folders and results.jsonl files of any number of machines, each run once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.core.records import SCHEMA
from kdbench.tasks import task_of_record
from kdbench.utils.hashing import digest

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        record: Its record.json.
        where: Where the record was read: a run folder, or `FILE:LINE`.
    """

    record: Record
    where: str

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.record["seed"])

    @property
    def title(self) -> str:
        """The run in a few words."""
        names = self.record["names"]
        return f"{names['loss']}, {names['teacher']} -> {names['student']}, seed {self.seed}"

    @property
    def pair(self) -> str:
        """`teacher:student`."""
        return f"{self.record['names']['teacher']}:{self.record['names']['student']}"

    @property
    def seconds(self) -> float:
        """Training time, including a first stage of the loss, without start-up and evaluation."""
        return float(self.record["seconds"] + (self.record.get("stage") or {}).get("seconds", 0))


@dataclass(frozen=True)
class NotCounted:
    """Something that was read but is in no number of the report.

    Attributes:
        where: The run folder, file or `FILE:LINE`.
        reason: Why it is left out.
    """

    where: str
    reason: str


def read(places: Sequence[Path]) -> tuple[list[Run], list[NotCounted]]:
    """Read every finished run of a student below these folders and in these files.

    A run that appears several times (same hashes, names and seed) counts once: a run folder is preferred to a line of
    a file, then the place given first.

    Args:
        places: Folders, record.json and results.jsonl files.

    Returns:
        The runs, and everything that is left out, with the reason.

    Raises:
        ValueError: A place does not exist.
    """
    for place in places:
        if not place.exists():
            raise ValueError(f"{place} does not exist; pass a table, run folders or results.jsonl files")
    by_identity: dict[str, Run] = {}
    left: list[NotCounted] = []
    unfinished: list[tuple[str, Record]] = []
    entries = [entry for place in _distinct(places) for entry in _entries(place)]
    for where, record, defect in sorted(entries, key=lambda entry: "results.jsonl" in entry[0]):
        if defect or record is None:
            left.append(NotCounted(where, defect))
        elif record["state"] != "done":
            unfinished.append((where, record))
        elif (first := by_identity.get(identity(record))) is not None:
            if not _is_summary(where, first) or _differs(record, first):
                left.append(NotCounted(where, _again(record, first)))
        else:
            by_identity[identity(record)] = Run(record, where)
    left += [NotCounted(where, _unfinished(record, by_identity)) for where, record in unfinished]
    return list(by_identity.values()), _together(left)


def identity(record: Record) -> str:
    """Return a digest of what identifies a run: its hashes, names and seed."""
    hashes = {key: value for key, value in record["hashes"].items() if value}
    return digest([hashes, record["names"], record["seed"]])


def _distinct(places: Sequence[Path]) -> list[Path]:
    """Return the files to read, each once even where one place lies within another."""
    files: dict[Path, Path] = {}
    for place in places:
        for file in [place] if place.is_file() else _files(place):
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _files(folder: Path) -> list[Path]:
    records = sorted(folder.glob("**/record.json"))
    started = {path.parent for name in ("state.pt", "metrics.jsonl") for path in folder.glob(f"**/{name}")}
    without = sorted(started - {path.parent for path in records})
    return [*records, *without, *sorted(folder.glob("**/results.jsonl"))]


def _entries(file: Path) -> Iterator[tuple[str, Record | None, str]]:
    """Yield (where, record, defect) of a record.json, a run folder without one, or the lines of a results.jsonl."""
    if file.is_dir():
        yield str(file), None, "started, but has no record.json"
        return
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        yield str(file), None, f"cannot be read: {error}"
        return
    if file.name == "record.json":
        yield str(file.parent), *_parsed(text, {})
        return
    for number, line in enumerate(text.splitlines(), 1):
        record, defect = _parsed(line, {"schema": SCHEMA})
        if number > 1 or record is None or "command" not in record:  # the first line says who wrote the file
            yield f"{file}:{number}", record, defect


def _parsed(text: str, defaults: Record) -> tuple[Record | None, str]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return None, f"incomplete or damaged: {error}" if text.strip() else "empty"
    if not isinstance(record, dict):
        return None, "not a record"
    if set(record) == {"command"}:
        return record, ""
    record = {**defaults, **record}
    return record, _defect(record)


def _defect(record: Record) -> str:
    """Return why a record is not a student's run that can be counted; empty where it is."""
    if record.get("schema") != SCHEMA:
        return f"record of schema {record.get('schema')}; this version reads schema {SCHEMA}"
    names = record.get("names")
    if record.get("is_stage"):
        return "the first stage of other runs"
    if isinstance(names, Mapping) and "student" not in names:
        return "a teacher's training"
    if not isinstance(names, Mapping) or {"dataset", "teacher", "student", "loss"} - names.keys():
        return "the record lacks names"
    try:
        task_of_record(record)
    except ValueError as error:
        return str(error)
    for key, kind in (("seed", int), ("state", str), ("hashes", dict)):
        if not isinstance(record.get(key), kind):
            return f"the record lacks {key}"
    return _without_results(record) if record["state"] == "done" else ""


def _without_results(record: Record) -> str:
    results, metric = record.get("results") or {}, task_of_record(record).metric
    for key in ("last", *(key for key in ("best_on_test", "best_validation") if key in results)):
        scores = results.get(key) or {}
        if not isinstance(scores.get(metric), int | float) or "epoch" not in scores:
            return f"done, but the record lacks results.{key}"
        if not math.isfinite(scores[metric]):
            return f"done, but results.{key}.{metric} is {scores[metric]}"
    return "" if isinstance(record.get("seconds"), int | float) else "done, but the record lacks seconds"


def _is_summary(where: str, first: Run) -> bool:
    """Return whether this is a line of the results.jsonl in which a table summarised the runs below its folder."""
    file, _, line = where.rpartition(":")
    return line.isdigit() and Path(file).parent in Path(first.where).parents


def _differs(record: Record, first: Run) -> str:
    task = task_of_record(record)
    here, there = (one["results"]["last"][task.metric] for one in (record, first.record))
    return "" if here == there else f"; {task.title} is {here:.2f} % here and {there:.2f} % there"


def _again(record: Record, first: Run) -> str:
    return f"the same run as {first.where}, which is counted{_differs(record, first)}"


def _unfinished(record: Record, by_identity: Mapping[str, Run]) -> str:
    reason = f": {record['reason']}" if record.get("reason") else ""
    state = "unfinished or still running" if record["state"] == "running" else record["state"]
    done = by_identity.get(identity(record))
    return f"{state}{reason}" + (f"; finished in {done.where}, which is counted" if done else "")


def _together(left: Sequence[NotCounted]) -> list[NotCounted]:
    """Merge the lines of one file that only repeat counted runs into one entry."""
    repeats: dict[str, list[NotCounted]] = {}
    others: list[NotCounted] = []
    for one in left:
        file, _, line = one.where.rpartition(":")
        if line.isdigit() and one.reason.endswith(", which is counted"):
            repeats.setdefault(file, []).append(one)
        else:
            others.append(one)
    return others + [
        NotCounted(file, f"{len(lines)} of its lines repeat runs that are counted elsewhere")
        for file, lines in repeats.items()
    ]


SCORED_ON = "scored_on"
"""Key of a record that `by_test_set` made: the additional test set that its scores belong to."""


def by_test_set(record: Record) -> list[Record]:
    """Split a record by test set.

    Returns:
        The record with the scores on its own test set, and one record for each additional set, under that set's name.
    """
    if record["state"] != "done" or not isinstance(results := record.get("results"), Mapping):
        return [record]
    names = dict.fromkeys(key.partition("/")[0] for key in results.get("last", {}) if "/" in key)
    if not names:
        return [record]
    own = {**record, "results": _results(results, "")}
    return [own, *(_scored_on(record, name, results) for name in names)]


def _scored_on(record: Record, name: str, results: Mapping[str, Any]) -> Record:
    names = {**record["names"], "dataset": name}
    return {**record, "names": names, SCORED_ON: name, "results": _results(results, f"{name}/")}


def _results(results: Mapping[str, Any], prefix: str) -> Record:
    selections = ("last", "best_validation", "best_on_test")
    return {
        how: {"epoch": scores["epoch"], **_scores(scores, prefix)} if how in selections else scores
        for how, scores in results.items()
        if how in selections or not prefix
    }


def _scores(scores: Mapping[str, Any], prefix: str) -> Record:
    """Return the scores whose names begin with the prefix, without it; for no prefix those of the own test set."""
    if not prefix:
        return {key: value for key, value in scores.items() if "/" not in key}
    return {key.removeprefix(prefix): value for key, value in scores.items() if key.startswith(prefix)}
