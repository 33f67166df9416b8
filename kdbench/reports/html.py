"""A report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdbench.reports.aggregate import Series
from kdbench.reports.columns import COMPARED, Field, compared, fields
from kdbench.reports.export import comparison_words
from kdbench.reports.paired_tests import Comparison
from kdbench.reports.read import Run
from kdbench.reports.report import Line, Report, configuration, differing, origin, origins
from kdbench.reports.rows import Row
from kdbench.reports.samples import written

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("charts.js", "table.js", "panels.js")
NAMES = ("loss", "pair", "setting", "data")
"""Columns that say what a row is; the first of them that varies is the row's name."""
CONSTANT = (*NAMES, "epochs", "n")
"""Columns that are said once above the table where all rows have the same there."""


def html(report: Report) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    common, shown = _split(report.lines)
    return environment.get_template("page.html").render(
        report=report,
        title=report.title.replace("->", "\u2192"),
        common=common,
        fields=shown,
        names=NAMES,
        rows=[_row(place, line, shown) for place, line in enumerate(report.lines)],
        choices=_choices(report.lines),
        sources=list(dict.fromkeys(beside.source.about for _, beside in report.lines if beside)),
        families=_families(report.comparisons),
        words=comparison_words(report.comparisons) if report.comparisons else "",
        headings=COMPARED,
        samples=written(report.series),
        keys=_keys(report.runs),
        origins=origins(report.runs),
        style=_own("page.css"),
        script=Markup("\n").join(_own(name) for name in SCRIPTS),
        data=embedded(_data(report)),
    )


def embedded(data: Any) -> Markup:
    """Plain data as JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _own(name: str) -> Markup:
    return Markup((PAGE / name).read_text())


def _split(lines: Sequence[Line]) -> tuple[list[tuple[str, str]], list[Field]]:
    """What all rows have in common, by heading, and the columns that are left; the one that names the rows is first."""
    by_heading = {field.heading: field for field in fields(lines)}
    texts = {name: [field.text(line) for line in lines] for name, field in by_heading.items()}
    same = [name for name in CONSTANT if name in texts and len(set(texts[name])) == 1]
    first = next((name for name in NAMES if name in texts and name not in same), "loss")
    common = [(name, texts[name][0]) for name in same if name != first]
    said = {first, *(name for name, _ in common)}
    return common, [by_heading[first], *(field for name, field in by_heading.items() if name not in said)]


def _row(place: int, line: Line, shown: Sequence[Field]) -> dict[str, Any]:
    """A row of the table; `told`: cells that a narrow screen has below the name, in `below`, instead."""
    row = line[0].row
    cells = [
        {
            "text": field.text(line),
            "sort": field.sort(line),
            "field": field,
            "told": number > 0 and field.heading in NAMES,
        }
        for number, field in enumerate(shown)
    ]
    below = " \u00b7 ".join(str(cell["text"]) for cell in cells if cell["told"] and cell["text"])
    return {
        "place": place,
        "cells": cells,
        "below": below,
        "pair": row.pair,
        "loss": row.loss,
        "data": row.dataset,
    }


def _choices(lines: Sequence[Line]) -> list[tuple[str, str, list[str]]]:
    """(key, label, values) of the menus that rows are filtered by."""
    found = {
        ("pair", "all pairs"): [series.row.pair for series, _ in lines],
        ("loss", "all losses"): [series.row.loss for series, _ in lines],
        ("data", "all data"): [series.row.dataset for series, _ in lines],
    }
    return [
        (key, label, sorted(set(values))) for (key, label), values in found.items() if len(set(values)) > 1
    ]


def _families(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    families: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        result = one.result
        row = {"texts": compared(one), "mean": result.mean, "low": result.low, "high": result.high}
        families.setdefault(one.family, []).append(row)
    return [{"title": title, "rows": rows} for title, rows in families.items()]


def _keys(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """The keys in which configurations differ, each with its values and how many runs have them."""
    configs = [configuration(run.record) for run in runs if "config" in run.record]
    made = []
    for name in differing(runs):
        values = [config.get(name, "not there") for config in configs]
        made.append((name, [(value, values.count(value)) for value in dict.fromkeys(values)]))
    return made


def _data(report: Report) -> dict[str, Any]:
    """What the scripts draw."""
    configs = [configuration(run.record) for run in report.runs]
    names = set(differing(report.runs))
    common = {name: value for name, value in next(filter(None, configs), {}).items() if name not in names}
    return {
        "rows": [_series(line[0]) for line in report.lines],
        "common": common,
        "runs": [
            {
                "title": _run_title(run, series),
                "where": run.where,
                "own": {name: value for name, value in configuration(run.record).items() if name in names},
                "known": "config" in run.record,
                "origin": origin(run.record),
            }
            for series in report.series
            for run in series.runs
        ],
    }


def _run_title(run: Run, series: Series) -> str:
    return run.title.replace("->", "\u2192") + (f" ({series.setting})" if series.setting else "")


def _series(series: Series) -> dict[str, Any]:
    row = series.row
    teacher = (series.first.get("teacher") or {}).get(row.task.metric)
    return {
        "pair": row.pair.replace(":", " \u2192 "),
        "loss": row.loss,
        "setting": series.setting,
        "epochs": row.epochs,
        "dataset": row.dataset,
        "mean": row.mean,
        "seconds": row.seconds,
        "teacher": teacher,
        "score": row.task.title,
        "runs": [_run(run, row) for run in series.runs],
    }


def _run(run: Run, row: Row) -> dict[str, Any]:
    results = run.record["results"]
    metric, last, best = row.task.metric, results["last"], results.get(row.best_key)
    points = [(point.get("epoch"), point.get(f"test/{metric}")) for point in results.get("curve") or []]
    curve = [point for point in points if None not in point] or [(last["epoch"], last[metric])]
    return {
        "seed": run.seed,
        "curve": curve,
        "last": last[metric],
        "best": best[metric] if best else None,
        "bestEpoch": best["epoch"] if best else None,
        "seconds": run.record["seconds"] + (run.record.get("stage") or {}).get("seconds", 0),
        "where": run.where,
    }
