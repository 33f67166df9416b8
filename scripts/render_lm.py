"""Rewrite the parts of docs/lm.md that come from benchmarks/lm_losses.json and from published numbers."""

from pathlib import Path

from tools.docs.language_models import with_parts
from tools.docs.objectives import load_measured

ROOT = Path(__file__).parent.parent

page, measured = ROOT / "docs" / "lm.md", load_measured(ROOT / "benchmarks" / "lm_losses.json")
assert measured is not None
page.write_text(with_parts(page.read_text(), measured))
