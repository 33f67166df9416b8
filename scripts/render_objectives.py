"""Write docs/objectives.md and the list of losses in README anew."""

from pathlib import Path

from tools.docs.objectives import load_measured, names, page

ROOT = Path(__file__).parent.parent
START, END = "<!-- python scripts/render_objectives.py -->\n", "\n<!-- end -->"

(ROOT / "docs").mkdir(exist_ok=True)
(ROOT / "docs" / "objectives.md").write_text(page(load_measured(ROOT / "benchmarks" / "objectives.json")))
readme = ROOT / "README.md"
before, rest = readme.read_text().split(START)
readme.write_text(before + START + names() + END + rest.split(END, 1)[1])
