"""Runs read back from anywhere: folders of any machine and results.jsonl files, each run counted once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.core.task import TASKS, Task
from kdbench.training.run_folder import SCHEMA
from kdbench.utils.hashing import digest

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and where that was found (a folder, or a line of a file)."""

    record: Record
    where: str

    @property
    def seed(self) -> int:
        """As the run was told."""
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


@dataclass(frozen=True)
class NotCounted:
    """Something found that is in no cell, and why."""

    where: str
    reason: str


def read(places: Sequence[Path]) -> tuple[list[Run], list[NotCounted]]:
    """Every finished run of a student in these folders and files, and all else that was found there.

    A run found several times (by what its weights depend on, its names and its seed) is counted once: from a run folder
    rather than from a line of a file, else from the first place given. ValueError for a place that does not exist.
    """
    for place in places:
        if not place.exists():
            raise ValueError(f"there is no {place}; give a table, run folders or results.jsonl files")
    counted: dict[str, Run] = {}
    left: list[NotCounted] = []
    unfinished: list[tuple[str, Record]] = []
    entries = [entry for place in _distinct(places) for entry in _entries(place)]
    for where, record, defect in sorted(entries, key=lambda entry: "results.jsonl" in entry[0]):
        if defect or record is None:
            left.append(NotCounted(where, defect))
        elif record["state"] != "done":
            unfinished.append((where, record))
        elif (first := counted.get(identity(record))) is not None:
            if not _is_summary(where, first) or _differs(record, first):
                left.append(NotCounted(where, _again(record, first)))
        else:
            counted[identity(record)] = Run(record, where)
    left += [NotCounted(where, _unfinished(record, counted)) for where, record in unfinished]
    return list(counted.values()), _together(left)


def identity(record: Record) -> str:
    """What makes two records those of one run: its hashes, names and seed."""
    hashes = {key: value for key, value in record["hashes"].items() if value}
    return digest([hashes, record["names"], record["seed"]])


def _distinct(places: Sequence[Path]) -> list[Path]:
    """The files to read, each once, where one place lies within another too."""
    files: dict[Path, Path] = {}
    for place in places:
        for file in [place] if place.is_file() else _files(place):
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _files(folder: Path) -> list[Path]:
    records = sorted(folder.glob("**/record.json"))
    begun = {path.parent for name in ("state.pt", "metrics.jsonl") for path in folder.glob(f"**/{name}")}
    without = sorted(begun - {path.parent for path in records})
    return [*records, *without, *sorted(folder.glob("**/results.jsonl"))]


def _entries(file: Path) -> Iterator[tuple[str, Record | None, str]]:
    """(where, record, why it is no run) of a record.json, a folder without one, or the lines of a results.jsonl."""
    if file.is_dir():
        yield str(file), None, "begun, and there is no record.json"
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
        return None, f"half-written or damaged: {error}" if text.strip() else "empty"
    if not isinstance(record, dict):
        return None, "is not a record"
    if set(record) == {"command"}:
        return record, ""
    record = {**defaults, **record}
    return record, _defect(record)


def _defect(record: Record) -> str:
    """Why a record is no student's run that can be counted, or nothing."""
    if record.get("schema") != SCHEMA:
        return f"schema {record.get('schema')}; this kdbench reads {SCHEMA}"
    names = record.get("names")
    if record.get("is_stage"):
        return "the first stage of other runs"
    if isinstance(names, Mapping) and "student" not in names:
        return "trained a teacher"
    if not isinstance(names, Mapping) or {"dataset", "teacher", "student", "loss"} - names.keys():
        return "the record lacks names"
    if record.get("task", "images") not in TASKS:
        return f"task {record['task']}; this kdbench knows {', '.join(TASKS)}"
    for key, kind in (("seed", int), ("state", str), ("hashes", dict)):
        if not isinstance(record.get(key), kind):
            return f"the record lacks {key}"
    return _without_results(record) if record["state"] == "done" else ""


def _without_results(record: Record) -> str:
    results, metric = record.get("results") or {}, task_of(record).metric
    for key in ("last", *(key for key in ("best_on_test", "best_validation") if key in results)):
        scores = results.get(key) or {}
        if not isinstance(scores.get(metric), int | float) or "epoch" not in scores:
            return f"done, but the record lacks results.{key}"
        if not math.isfinite(scores[metric]):
            return f"done, but results.{key}.{metric} is {scores[metric]}"
    return "" if isinstance(record.get("seconds"), int | float) else "done, but the record lacks seconds"


def task_of(record: Record) -> Task:
    """Images, where the record says nothing."""
    return TASKS[record.get("task", "images")]


def _is_summary(where: str, first: Run) -> bool:
    """Whether this is a line of the results.jsonl that a table wrote of the runs below its own folder."""
    file, _, line = where.rpartition(":")
    return line.isdigit() and Path(file).parent in Path(first.where).parents


def _differs(record: Record, first: Run) -> str:
    task = task_of(record)
    here, there = (one["results"]["last"][task.metric] for one in (record, first.record))
    return "" if here == there else f"; {task.title} is {here:.2f} % here and {there:.2f} % there"


def _again(record: Record, first: Run) -> str:
    return f"the same run as {first.where}, which is counted{_differs(record, first)}"


def _unfinished(record: Record, counted: Mapping[str, Run]) -> str:
    reason = f": {record['reason']}" if record.get("reason") else ""
    state = "unfinished, or at work now" if record["state"] == "running" else record["state"]
    done = counted.get(identity(record))
    return f"{state}{reason}" + (f"; the same run is done in {done.where}, and counted" if done else "")


def _together(left: Sequence[NotCounted]) -> list[NotCounted]:
    """The lines of one file that repeat counted runs, as one entry."""
    repeats: dict[str, list[NotCounted]] = {}
    others: list[NotCounted] = []
    for one in left:
        file, _, line = one.where.rpartition(":")
        if line.isdigit() and one.reason.endswith(", which is counted"):
            repeats.setdefault(file, []).append(one)
        else:
            others.append(one)
    said = [
        NotCounted(file, f"{len(lines)} of its lines are runs counted from elsewhere")
        for file, lines in repeats.items()
    ]
    return others + said


SCORED_ON = "scored_on"
"""Of a record made here: the further test set that it is about."""


def by_test_set(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record with the scores on its own test set, and one more, under the name of the set, for each further one."""
    if record["state"] != "done" or not isinstance(results := record.get("results"), Mapping):
        return [record]
    names = dict.fromkeys(key.partition("/")[0] for key in results.get("last", {}) if "/" in key)
    if not names:
        return [record]
    own = {**record, "results": _results(results, "")}
    return [own, *(_about(record, name, results) for name in names)]


def _about(record: dict[str, Any], name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    names = {**record["names"], "dataset": name}
    return {**record, "names": names, SCORED_ON: name, "results": _results(results, f"{name}/")}


def _results(results: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    chosen = ("last", "best_validation", "best_on_test")
    return {
        how: {"epoch": scores["epoch"], **_scores(scores, prefix)} if how in chosen else scores
        for how, scores in results.items()
        if how in chosen or not prefix
    }


def _scores(scores: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Those whose names begin with the prefix, without it; with no prefix all that are about no further set."""
    if not prefix:
        return {key: value for key, value in scores.items() if "/" not in key}
    return {key.removeprefix(prefix): value for key, value in scores.items() if key.startswith(prefix)}
