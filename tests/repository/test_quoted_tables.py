"""Tables that other pages quote are those of experiments/."""

from pathlib import Path

import pytest

from kdbench.reports.places import committed_results
from kdbench.reports.results_file import read_results
from tools.docs.tables import QUOTE, with_tables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_tables_are_up_to_date(page):
    """`make docs` writes them."""
    assert with_tables(page.read_text()) == page.read_text()


def test_a_changed_quotation_is_noticed():
    page = (ROOT / "README.md").read_text()
    assert QUOTE.search(page)
    results = read_results(committed_results(QUOTE.search(page)[2]))
    assert results.command in page
    score = f"{results.records[0]['results']['last']['top1']:.2f}"
    assert with_tables(page.replace(score, "99.99", 1)) == page
