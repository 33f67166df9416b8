"""The documentation site: every page is in the navigation, says what it is for, and needs no network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools.docs.site_pages import body, unlink_outside

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


class NavigationLoader(yaml.SafeLoader):
    """A YAML loader that accepts the Python tags of mkdocs."""


def _files(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [file for part in parts for file in _files(part)]


def test_navigation_lists_every_page_once_in_four_parts():
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(), NavigationLoader)["nav"]
    assert [next(iter(part)) for part in navigation] == [
        "Home",
        "Tutorial",
        "How-to",
        "Reference",
        "Explanation",
    ]
    assert sorted(_files(navigation)) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_first_lines_say_what_a_reader_wants_there(page):
    first = page.read_text().split("\n\n")[1]
    assert re.match(r"(Read|Follow) this page to ", first), first


def test_links_out_of_the_site_become_text():
    page = "[here](identity.md#resuming), [all](../experiments/demo/README.md), [rules](../CONTRIBUTING.md)"
    pages = {"identity.md", "contributing.md"}
    assert unlink_outside(page, pages, "runs.md") == (
        "[here](identity.md#resuming), all (`experiments/demo/README.md` in the repository), "
        "[rules](contributing.md)"
    )


def test_included_pages_lose_their_title():
    assert not body(ROOT / "ARCHITECTURE.md").startswith("# ")


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    loaded = re.compile(r"""<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=["']?https?://[^"'> ]+""")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.findall(page.read_text()), page
