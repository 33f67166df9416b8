"""The results of a report as a LaTeX table."""

from __future__ import annotations

import re

from kdbench.reports.model import Column, Row, Table
from kdbench.reports.report import Report

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
    """Escape text for LaTeX; `->` becomes an arrow."""
    parts = re.split("(->)", text)
    return "".join(
        r"$\rightarrow$" if part == "->" else "".join(_ESCAPED.get(sign, sign) for sign in part)
        for part in parts
    )


def latex(report: Report, bold: bool = False) -> str:
    """Return the results as a booktabs table, without notes.

    Args:
        report: The report.
        bold: Print the highest main score of each pair, protocol and number of epochs in bold.
    """
    table = report.results
    columns = [column for column in table.printed if column.kind != "text"]
    best = _highest(table) if bold else set()
    spec = "".join("r" if column.kind == "number" else "l" for column in columns)
    lines = [
        " & ".join(_cell(column, row, place in best) for column in columns) + r" \\"
        for place, row in enumerate(table.rows)
    ]
    head = " & ".join(tex(column.heading) for column in columns) + r" \\"
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
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _cell(column: Column, row: Row, is_best: bool) -> str:
    text = tex(column.text(row))
    return f"\\textbf{{{text}}}" if is_best and column.is_main else text


def _highest(table: Table) -> set[int]:
    """Return the places of the rows with the highest main score among those that compare with them."""
    main = next(column.key for column in table.columns if column.is_main)
    keys = [tuple(row.value(key) for key in ("dataset", "pair", "protocol", "epochs")) for row in table.rows]
    scores = [row.value(main) for row in table.rows]
    numbers = [score if isinstance(score, float | int) else float("-inf") for score in scores]
    best = {key: max(n for k, n in zip(keys, numbers, strict=True) if k == key) for key in keys}
    return {place for place, key in enumerate(keys) if numbers[place] == best[key]}
