"""Write docs/performance.md anew from benchmarks/bench.json."""

from pathlib import Path

from kdbench.report.speed import page
from kdbench.report.zoo import load_measured

ROOT = Path(__file__).parent.parent

(ROOT / "docs" / "performance.md").write_text(page(load_measured(ROOT / "benchmarks" / "bench.json")))
