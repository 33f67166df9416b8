"""A report as Markdown, LaTeX, CSV and Parquet."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from kdbench.reports.columns import COMPARED, Datum, Field, compared, fields
from kdbench.reports.paired_tests import Comparison
from kdbench.reports.report import Line, Report, origins
from kdbench.reports.samples import one_line, samples_section, written
from kdbench.utils.formatting import markdown_table

ENOUGH = 3
"""Pairs of seeds below which a page of a table says nothing of differences."""


def markdown(report: Report) -> str:
    """The whole report for a README."""
    parts = [f"# {report.title}", report.caption, _rows(report.lines), *_sources(report), *_teachers(report)]
    parts += comparison_section(report.comparisons)
    parts += samples_section(written(report.series))
    parts += ["## Provenance", markdown_table(origins(report.runs)), *_left(report)]
    parts.append(f"Made by `{report.command}`. Training times leave out start and evaluation.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(lines: Sequence[Line]) -> str:
    shown = fields(lines)
    head = f"| {' | '.join(field.heading for field in shown)} |"
    rule = f"|{'|'.join('---' if field.is_name else '--:' for field in shown)}|"
    body = (f"| {' | '.join(one_line(field.text(line)) for field in shown)} |" for line in lines)
    return "\n".join([head, rule, *body])


def _sources(report: Report) -> list[str]:
    found = dict.fromkeys(beside.source.about for _, beside in report.lines if beside)
    return ["\n".join(f"* {about}" for about in found)] if found else []


def _teachers(report: Report) -> list[str]:
    rows = [
        {
            "teacher": teacher.name,
            "data": teacher.dataset,
            "test %": f"{teacher.score:.2f}",
            "published %": "" if teacher.published is None else f"{teacher.published:.2f}",
            "gap": "" if teacher.gap is None else f"{teacher.gap:+.2f}",
            "weights": teacher.hash[:8],
            "notes": teacher.about,
        }
        for teacher in report.teachers
    ]
    return ["## Teachers", markdown_table(rows)] if rows else []


def comparison_section(found: Sequence[Comparison], least: int = 2) -> list[str]:
    """Paired comparisons on at least so many seeds, a table for each family; nothing where there are none."""
    shown = [one for one in found if one.result.n >= least]
    if not shown:
        return []
    parts = ["## Paired comparisons", comparison_words(shown)]
    for family in dict.fromkeys(one.family for one in shown):
        rows = [dict(zip(COMPARED, compared(one), strict=True)) for one in shown if one.family == family]
        parts += [f"{family}:", markdown_table(rows)]
    return parts


def comparison_words(shown: Sequence[Comparison]) -> str:
    """What the numbers of these comparisons are."""
    fewest = min(one.result.n for one in shown)
    return (
        "Differences within seeds, in points, with Student's 95 % interval (not corrected); p of the paired t test and "
        "of Wilcoxon's signed ranks, two-sided, and both corrected by Holm's method over the comparisons of one family "
        f"and measure. With {fewest} pairs Wilcoxon's p cannot fall below {2 / 2**fewest:.2g}."
    )


def _left(report: Report) -> list[str]:
    if not report.left:
        return []
    lines = (f"* `{one.where}`: {one.reason}" for one in report.left)
    return ["## Not counted", "\n".join(lines)]


_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def tex(text: str) -> str:
    """Text as LaTeX shows it."""
    parts = re.split("(->)", text)
    return "".join(
        r"$\rightarrow$" if part == "->" else "".join(_ESCAPED.get(sign, sign) for sign in part)
        for part in parts
    )


def latex(report: Report, bold: bool = False) -> str:
    """The rows as a booktabs table; `bold` marks the highest score at the last epoch of each pair and setting."""
    shown = [field for field in fields(report.lines) if field.heading != "notes"]
    best = _highest(report.lines) if bold else set()
    spec = "".join("l" if field.is_name else "r" for field in shown)
    rows = [
        " & ".join(_texone_line(field, line, place in best) for field in shown) + r" \\"
        for place, line in enumerate(report.lines)
    ]
    head = " & ".join(tex(field.heading) for field in shown) + r" \\"
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{tex(report.title)}}}",
            f"\\begin{{tabular}}{{{spec}}}",
            "\\toprule",
            head,
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _texone_line(field: Field, line: Line, is_best: bool) -> str:
    text = tex(field.text(line))
    return f"\\textbf{{{text}}}" if is_best and field.is_main else text


def _highest(lines: Sequence[Line]) -> set[int]:
    best: dict[tuple[str, str, str, int | None], float] = {}
    keys = [(s.row.dataset, s.row.pair, s.row.protocol, s.row.epochs) for s, _ in lines]
    for key, (series, _) in zip(keys, lines, strict=True):
        best[key] = max(best.get(key, series.row.mean), series.row.mean)
    return {
        place
        for place, (key, (series, _)) in enumerate(zip(keys, lines, strict=True))
        if series.row.mean == best[key]
    }


def csv(rows: Sequence[dict[str, Datum]]) -> bytes:
    """Plain data as CSV, empty where there is nothing."""
    sink = io.BytesIO()
    pyarrow.csv.write_csv(_arrow(rows), sink)
    return sink.getvalue()


def parquet(rows: Sequence[dict[str, Datum]]) -> bytes:
    """The same as Parquet."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(_arrow(rows), sink)
    return sink.getvalue()


def _arrow(rows: Sequence[dict[str, Datum]]) -> pa.Table:
    """A column that is empty everywhere is one of numbers: the schema does not depend on what was found."""
    table = pa.Table.from_pylist(list(rows))
    floats = [pa.field(f.name, pa.float64()) if pa.types.is_null(f.type) else f for f in table.schema]
    return table.cast(pa.schema(floats))
