"""Write the pages and pictures of experiments/ anew from the records beside them, and what others quote of them."""

from pathlib import Path

from kdbench.reports.rows import summarise
from kdbench.reports.table_page import markdown, picture
from kdbench.tables.grid import load_table
from tools.docs.tables import measured, with_tables

ROOT = Path(__file__).parent.parent

for file in sorted((ROOT / "experiments").glob("*/results.jsonl")):
    table = load_table(file.parent.name, [])
    command, records, missing = measured(table.name)
    (file.parent / "README.md").write_text(markdown(table, records, command, missing))
    picture(table, summarise(records), file.parent / "table.png")
for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
    page.write_text(with_tables(page.read_text()))
