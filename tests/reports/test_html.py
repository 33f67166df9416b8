"""The HTML page as text; `test_html_browser.py` opens it in a browser."""

import json
import re

import pytest

from kdbench.reports.html import embedded, html, typeset
from kdbench.reports.report import report_on
from tests.reports.records import record, three_losses, write


@pytest.fixture
def report(tmp_path):
    """The report on three losses with three seeds, and a failed run."""
    return report_on([str(three_losses(tmp_path / "runs"))], "kdbench report runs")


def test_the_page_refers_to_nothing_outside(report):
    page = html(report)
    assert page.startswith("<!doctype html>")
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")  # a namespace, never fetched
    assert not re.search(r"<(link|img|iframe)|@import|url\(|src=", page)
    assert "default-src 'none'" in page
    assert "a &lt;b&gt; &amp; c" in page


def test_the_same_runs_make_the_same_page(report):
    assert html(report) == html(report)


def test_what_all_rows_share_is_stated_once(report):
    page = html(report)
    for heading, text in (("pair", "resnet56 → resnet20"), ("epochs", "240"), ("n", "3")):
        assert f"<div><dt>{heading}</dt><dd>{text}</dd></div>" in page
    assert 'class="sort">loss</button>' in page
    assert 'class="sort">pair</button>' not in page


def test_embedded_data_cannot_end_its_element():
    text = "</script><!--<script>\u2028&"
    data = embedded({"a": text})
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data) == {"a": text}


def test_names_and_reasons_are_escaped(tmp_path):
    bad = "<img src=x onerror=alert(1)>"
    unsafe = record(loss="kd", teacher=bad, protocol='"><script>x</script>')
    runs = write(tmp_path / "runs", unsafe, record("kd", 1, state="failed", reason=bad))
    page = html(report_on([str(runs)], ""))
    assert "<img" not in page
    assert "<script>x" not in page


def test_a_run_without_teacher_configuration_and_curve(tmp_path):
    alone = record("ce", teacher="none")
    del alone["teacher"], alone["config"], alone["results"]["last"]["agreement"], alone["results"]["curve"]
    assert "configuration not recorded" in html(report_on([str(write(tmp_path / "runs", alone))], ""))


def test_text_is_typeset():
    assert typeset("a -> b-c") == "a → b-c"
    assert typeset("-1.5", "number") == "\u22121.5"
