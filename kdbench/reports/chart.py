"""The results of a report as a picture: a dot for each run and a bar for each mean."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.core.class_groups import CLASS_GROUPS
from kdbench.reports.aggregate import Series
from kdbench.reports.columns import main_score
from kdbench.reports.model import Table
from kdbench.reports.report import Report

BAR, DOT = "#b8cbe0", "#1f3f66"
"""Colours of means and of runs."""


def draw_chart(report: Report, path: Path) -> None:
    """Draw the main score, and next to it the mean recall of each group of classes, into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    measures, names = _measures(report.series), _row_names(report.results)
    size = (7 if len(measures) == 1 else 3 + 3 * len(measures), 0.45 * len(names) + 1.6)
    figure, axes = plt.subplots(
        1, len(measures), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    for panel, (measure, values) in zip(axes[0], measures.items(), strict=True):
        _draw_panel(panel, measure, names, values)
    axes[0][0].invert_yaxis()
    title = "\n".join(textwrap.wrap(report.title, int(size[0] * 12)))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.supxlabel("at the last epoch; bar: mean, dots: seeds", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_panel(panel: Any, measure: str, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    panel.barh(names, [statistics.fmean(scores) if scores else 0.0 for scores in values], color=BAR)
    for name, scores in zip(names, values, strict=True):
        panel.plot(scores, [name] * len(scores), "o", color=DOT, markersize=4)
    panel.set_xlabel(measure)
    panel.spines[["top", "right"]].set_visible(False)


def _measures(series: Sequence[Series]) -> dict[str, list[list[float]]]:
    """Return the scores of every series, one per seed, by the label of their axis."""
    groups = [name for name in CLASS_GROUPS if any(name in one.groups for one in series)]
    measures = {f"test {main_score(series)} %": [one.scores for one in series]}
    return measures | {
        f"recall of {name} classes %": [one.groups.get(name, []) for one in series] for name in groups
    }


def _row_names(table: Table) -> list[str]:
    """Name each row by the columns in which rows differ."""
    columns = [column for column in table.printed if column.kind == "name" and column.key != "compared_with"]
    varying = [column for column in columns if len({column.text(row) for row in table.rows}) > 1]
    return [", ".join(column.text(row) for column in varying) or str(row.value("loss")) for row in table.rows]
