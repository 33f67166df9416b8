"""Write the measured part of docs/lm.md anew from benchmarks/lm_losses.json."""

from pathlib import Path

from kdbench.report.lm import with_measured
from kdbench.report.zoo import load_measured

ROOT = Path(__file__).parent.parent

page, measured = ROOT / "docs" / "lm.md", load_measured(ROOT / "benchmarks" / "lm_losses.json")
assert measured is not None
page.write_text(with_measured(page.read_text(), measured))
