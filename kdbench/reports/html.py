"""A report as one HTML page that needs no network and no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdbench.reports.aggregate import Series
from kdbench.reports.columns import comparison_caption, comparison_tables, provenance_table, teachers_table
from kdbench.reports.model import Column, Row, Table
from kdbench.reports.provenance import configuration, differing_keys, origin
from kdbench.reports.read import Run
from kdbench.reports.report import Report
from kdbench.reports.samples import sample_tables

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("charts.js", "table.js", "panels.js")

NAMES = ("loss", "pair", "variant", "protocol", "setting", "dataset")
"""Columns that name a row; the first of them that varies is the row's heading."""

STATED_ONCE = ("loss", "pair", "setting", "dataset", "epochs", "n")
"""Columns that are stated once above the table where all rows agree."""


def html(report: Report) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    facts, columns = _facts_and_columns(report.results)
    return environment.get_template("page.html").render(
        report=report,
        facts=facts,
        columns=columns,
        names=NAMES,
        rows=[
            _row(place, row, series, columns)
            for place, (row, series) in enumerate(zip(report.results.rows, report.series, strict=True))
        ],
        filters=_filters(report.series),
        comparisons=comparison_tables(report.comparisons),
        comparison_caption=comparison_caption(report.comparisons),
        teachers=teachers_table(report.teachers),
        samples=sample_tables(report.series),
        keys=_differing_values(report.runs),
        provenance=provenance_table(report.runs),
        style=_file("page.css"),
        script=Markup("\n").join(_file(name) for name in SCRIPTS),
        data=embedded(_data(report)),
    )


def typeset(text: str, kind: str = "name") -> str:
    """Return a cell's text with typographic arrows, and in numbers with minus signs."""
    return text.replace("-", "\u2212") if kind == "number" else text.replace("->", "\u2192")


def embedded(data: Any) -> Markup:
    """Return plain data as JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _file(name: str) -> Markup:
    return Markup((PAGE / name).read_text())


def _facts_and_columns(table: Table) -> tuple[list[tuple[str, str]], list[Column]]:
    """Split a table into what all rows share, as (heading, text), and the columns that remain.

    The column that names the rows comes first.
    """
    printed = {column.key: column for column in table.printed}
    constants = table.constants(STATED_ONCE)
    first = next((key for key in NAMES if key in printed and key not in constants), "loss")
    facts = [fact for key, fact in constants.items() if key != first]
    columns = [column for key, column in printed.items() if key != first and key not in constants]
    return facts, [printed[first], *columns]


def _row(place: int, row: Row, series: Series, columns: Sequence[Column]) -> dict[str, Any]:
    """Return a row; on a narrow screen the `moved` cells are shown below the row's name, as `below`."""
    cells = []
    for number, column in enumerate(columns):
        cell = row.cells.get(column.key)
        cells.append(
            {
                "column": column,
                "text": typeset(column.text(row), column.kind),
                "sort": "" if cell is None or cell.value is None else cell.value,
                "note": cell.note if cell else "",
                "moved": number > 0 and column.key in NAMES,
            }
        )
    return {
        "place": place,
        "cells": cells,
        "below": " \u00b7 ".join(str(cell["text"]) for cell in cells if cell["moved"] and cell["text"]),
        "pair": series.pair,
        "loss": series.loss,
        "dataset": series.dataset,
    }


def _filters(series: Sequence[Series]) -> list[tuple[str, str, list[str]]]:
    """Return (key, label, values) of the menus that filter rows."""
    menus = {
        ("pair", "all pairs"): {one.pair for one in series},
        ("loss", "all losses"): {one.loss for one in series},
        ("data", "all data sets"): {one.dataset for one in series},
    }
    return [(key, label, sorted(values)) for (key, label), values in menus.items() if len(values) > 1]


def _differing_values(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the keys in which configurations differ, each with its values and the number of runs that have them."""
    configs = [configuration(run.record) for run in runs if "config" in run.record]
    keys = []
    for name in differing_keys(runs):
        values = [config.get(name, "not set") for config in configs]
        keys.append((name, [(value, values.count(value)) for value in dict.fromkeys(values)]))
    return keys


def _data(report: Report) -> dict[str, Any]:
    """Return the data that the scripts draw."""
    configs = [configuration(run.record) for run in report.runs]
    names = set(differing_keys(report.runs))
    common = {name: value for name, value in next(filter(None, configs), {}).items() if name not in names}
    return {
        "rows": [_series_data(one) for one in report.series],
        "common": common,
        "runs": [
            {
                "title": typeset(run.title) + (f" ({series.label})" if series.label else ""),
                "where": run.where,
                "own": {name: value for name, value in configuration(run.record).items() if name in names},
                "known": "config" in run.record,
                "origin": origin(run.record),
            }
            for series in report.series
            for run in series.runs
        ],
    }


def _series_data(series: Series) -> dict[str, Any]:
    return {
        "pair": series.pair.replace(":", " \u2192 "),
        "loss": series.loss,
        "setting": series.label,
        "epochs": series.epochs,
        "dataset": series.dataset,
        "mean": series.mean,
        "seconds": series.seconds,
        "teacher": (series.first.get("teacher") or {}).get(series.task.metric),
        "score": series.task.title,
        "runs": [_run_data(run, series) for run in series.runs],
    }


def _run_data(run: Run, series: Series) -> dict[str, Any]:
    results, metric = run.record["results"], series.task.metric
    last, best = results["last"], results.get(series.best_key)
    points = [(point.get("epoch"), point.get(f"test/{metric}")) for point in results.get("curve") or []]
    curve = [point for point in points if None not in point] or [(last["epoch"], last[metric])]
    return {
        "seed": run.seed,
        "curve": curve,
        "last": last[metric],
        "best": best[metric] if best else None,
        "bestEpoch": best["epoch"] if best else None,
        "seconds": run.seconds,
        "where": run.where,
    }
