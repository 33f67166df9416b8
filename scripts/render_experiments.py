"""Rewrite the pages and charts of experiments/ from their results, and the tables that README and docs/ quote."""

from pathlib import Path

from kdbench.reports.report import report_on_table
from kdbench.reports.results_file import read_results
from kdbench.reports.table_folder import write_page
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table
from tools.docs.tables import with_tables

ROOT = Path(__file__).parent.parent

register()
for file in sorted((ROOT / "experiments").glob("*/results.jsonl")):
    results = read_results(file)
    table = load_table(file.parent.name, [])
    write_page(report_on_table(table, results.records, results.command, results.missing), file.parent)
for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
    page.write_text(with_tables(page.read_text()))
