from pathlib import Path

from kdbench.report.speed import page
from kdbench.report.zoo import load_measured

ROOT = Path(__file__).parent.parent


def test_the_page_on_performance_is_fresh():
    """Written by scripts/render_performance.py (make docs)."""
    measured = load_measured(ROOT / "benchmarks" / "bench.json")
    assert (ROOT / "docs" / "performance.md").read_text() == page(measured)
