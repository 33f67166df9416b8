"""Runs that are scored on several test sets: for a report one run for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
