"""Measured tables stand in other pages as they are in experiments/."""

from pathlib import Path

import pytest

from tools.docs.tables import QUOTE, measured, with_tables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_quoted_table_is_stale(page):
    """Written by scripts/render_experiments.py (make docs)."""
    assert with_tables(page.read_text()) == page.read_text()


def test_the_readme_quotes_and_a_change_is_noticed():
    page = (ROOT / "README.md").read_text()
    assert QUOTE.search(page)
    command, records, _ = measured(QUOTE.search(page)[2])
    assert command in page
    score = f"{records[0]['results']['last']['top1']:.2f}"
    assert with_tables(page.replace(score, "99.99", 1)) == page
