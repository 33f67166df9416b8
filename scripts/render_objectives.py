"""Write docs/objectives.md and the list of losses in README."""

from pathlib import Path

from tools.docs.objectives import list_of_losses, load_measured, page

ROOT = Path(__file__).parent.parent
START, END = "<!-- python scripts/render_objectives.py -->\n", "\n<!-- end -->"

(ROOT / "docs").mkdir(exist_ok=True)
(ROOT / "docs" / "objectives.md").write_text(page(load_measured(ROOT / "benchmarks" / "objectives.json")))
readme = ROOT / "README.md"
if START in (text := readme.read_text()):
    before, rest = text.split(START)
    readme.write_text(before + START + list_of_losses() + END + rest.split(END, 1)[1])
