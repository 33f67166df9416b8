"""Results as a LaTeX table."""

import re

import pytest

from kdbench.reports.latex import latex, tex
from kdbench.reports.report import report_on
from tests.reports.records import three_losses


@pytest.fixture
def report(tmp_path):
    """The report on three losses with three seeds, and a failed run."""
    return report_on([str(three_losses(tmp_path / "runs"))], "kdbench report runs")


def test_text_is_escaped():
    assert tex("a_b & 5 % -> {x}\\~^#$ ±<") == (
        r"a\_b \& 5 \% $\rightarrow$ \{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}\#\$ $\pm$\textless{}"
    )


def test_the_best_row_is_bold_on_request(report):
    plain, bold = latex(report), latex(report, bold=True)
    assert "\\textbf" not in plain
    assert bold.count("\\textbf") == 1
    assert r"\textbf{72.00 $\pm$ 0.10}" in bold


def test_the_table_is_well_formed(report):
    plain = latex(report)
    body = [line for line in plain.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {body[0].count(" & ")}
    assert not re.search(r"(?<!\\)[%_]", "\n".join(body))
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert plain.count(rule) == 1
