"""Write docs/performance.md from the results of the benchmarks."""

from pathlib import Path

from tools.docs.objectives import load_measured
from tools.docs.performance import page

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "benchmarks" / f"{name}.json" for name in ("bench", "accuracy", "gpu"))

(ROOT / "docs" / "performance.md").write_text(page(*map(load_measured, FILES)))
