"""Hooks of mkdocs: pages that stand outside docs/, links that leave the site, and no script from a CDN.

ARCHITECTURE.md and CONTRIBUTING.md are part of the repository and of the site. A page of docs/ includes one by
`<!-- include: FILE -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHIM = "https://unpkg.com/iframe-worker/shim"
"""The script that the `offline` plugin asks a CDN for; docs/assets/iframe-worker.js is a copy."""
INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the text of a page as mkdocs shall render it (called by mkdocs for each page)."""
    included = INCLUDE.sub(lambda mark: body(ROOT / mark[1]), markdown)
    return unlink_outside(included, {file.src_uri for file in files}, page.file.src_uri)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Return a rendered page that loads the search shim of the `offline` plugin from the site itself."""
    up = "../" * page.file.dest_uri.count("/")
    return output.replace(SHIM, f"{up}assets/iframe-worker.js")


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """Return a rendered template (404.html) that loads the search shim from the site itself."""
    return output_content.replace(SHIM, "/assets/iframe-worker.js")


def body(file: Path) -> str:
    """Return a file of the repository root without its title, its links relative to docs/."""
    text = re.sub(r"\A# .*\n", "", file.read_text())
    return text.replace("](docs/", "](").replace("](README.md", "](index.md")


def unlink_outside(markdown: str, pages: set[str], source: str) -> str:
    """Replace links to files that are not part of the site by their text.

    Args:
        markdown: The text of the page.
        pages: The files of the site, relative to docs/.
        source: The file of this page, relative to docs/.
    """
    folder = Path("/docs") / Path(source).parent

    def replace(link: re.Match[str]) -> str:
        target = link[2].split("#")[0]
        names = {"ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}
        name = names.get(Path(target).name, target)
        parts: list[str] = []
        for part in (folder / name).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        inside = Path(*parts).as_posix().removeprefix("/docs/")
        if inside in pages:
            return link[0].replace(target, name)
        return f"{link[1]} (`{Path(target).as_posix().lstrip('./')}` in the repository)"

    return LINK.sub(replace, markdown)
