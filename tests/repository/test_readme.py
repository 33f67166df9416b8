"""README.md: its length, its order, and that its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_readme_is_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_readme_follows_the_order_of_a_strangers_questions():
    order = [
        "![",
        "<!-- python",
        "## Install",
        "## In Python",
        "## One run, one sweep, one table",
        "## Losses",
    ]
    places = [README.index(mark) for mark in [*order, "## Documentation"]]
    assert places == sorted(places)


def test_readme_names_the_test_command():
    assert "make test " in README


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_relative_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    assert not [target for target in targets if not (ROOT / target).exists()]
