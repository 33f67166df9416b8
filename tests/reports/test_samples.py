"""Texts that students generated, in the pages that people read."""

import json

import pytest

from kdbench.reports.html import html
from kdbench.reports.markdown import markdown
from kdbench.reports.report import report_on
from kdbench.reports.samples import FEW, sample_tables
from tests.reports.records import record, write

SAMPLE = {
    "split": "test",
    "row": 4,
    "input": "2 | 3?\nAdd.",
    "label": "5",
    "prediction": "<b>5</b>",
    "right": True,
}


@pytest.fixture
def report(tmp_path):
    write(tmp_path, *(record(loss, seed) for loss in ("ce", "kd") for seed in (0, 1)))
    for place, right in (("kd-0-2", True), ("kd-1-3", False)):
        lines = [{**SAMPLE, "right": right, "confidence": 0.25, "row": row} for row in range(FEW + 2)]
        (tmp_path / place / "samples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "ce-0-0" / "samples.jsonl").write_text('{"half')
    return report_on([str(tmp_path)], "kdbench report")


def test_the_first_seed_with_samples_represents_its_row(report):
    (one,) = sample_tables(report.series)
    assert one.title == "kd, resnet56 -> resnet20, seed 0, cifar100"
    assert len(one.rows) == FEW + 2
    assert dict(zip([column.heading for column in one.columns], one.lines[0], strict=True)) == {
        "input": "2 | 3?\nAdd.",
        "label": "5",
        "prediction": "<b>5</b>",
        "right": "yes",
        "confidence": "25 %",
    }


def test_pages_escape_samples(report):
    page = markdown(report)
    assert page.count("| 2 \\| 3? Add. | 5 | <b>5</b> | yes | 25 % |") == FEW
    html_page = html(report)
    assert html_page.count('<td class="name sample">&lt;b&gt;5&lt;/b&gt;</td>') == FEW + 2
    assert "<b>5</b>" not in html_page


def test_a_report_without_samples_has_no_section(tmp_path):
    write(tmp_path, record())
    empty_report = report_on([str(tmp_path)], "kdbench report")
    assert "Samples" not in markdown(empty_report) + html(empty_report)
