"""Write the pages and pictures of experiments/ anew from the records beside them."""

import json
from pathlib import Path

from kdbench.report.grid import load_table
from kdbench.report.table import markdown, picture, summarise

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

for file in sorted(EXPERIMENTS.glob("*/results.jsonl")):
    table = load_table(file.parent.name, [])
    command, *records = [json.loads(line) for line in file.read_text().splitlines()]
    (file.parent / "README.md").write_text(markdown(table, records, command["command"]))
    picture(table, summarise(records), file.parent / "table.png")
    print(file.parent / "README.md")
