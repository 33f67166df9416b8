"""Reports as Markdown pages."""

import pytest

from kdbench.reports.markdown import markdown, table_to_markdown
from kdbench.reports.model import text_table
from kdbench.reports.report import report_on, report_on_table
from kdbench.reports.results_file import read_results
from kdbench.tables.definition import Table, load_table
from kdbench.utils.paths import EXPERIMENTS_DIR
from tests.reports.records import record, three_losses, write


def table_page(*records: dict, missing: tuple[str, ...] = ()) -> str:
    return markdown(report_on_table(load_table("demo", []), records, "kdbench table demo", missing))


def test_a_page_has_rows_published_values_teachers_comparisons_and_what_is_left_out(tmp_path):
    page = markdown(report_on([str(three_losses(tmp_path / "runs"))], "kdbench report runs"))
    assert (
        "| resnet56 -> resnet20 | kd | 70.70 ± 0.10 | 3 | 70.70 ± 0.10 | 70.66 ± 0.24 | 5 | +0.04 |" in page
    )
    assert "| resnet56 | cifar100 | 72.50 | 72.34 | +0.16 |" in page
    assert "| kd - ce | last top-1 | 3 | +1.60 | - | - | - | 0.250 | 0.500 |" in page
    assert "failed: a <b> & c" in page
    assert "Made by `kdbench report runs`. All rows: dataset cifar100. Training times exclude" in page


@pytest.mark.parametrize(
    "file", sorted(EXPERIMENTS_DIR.glob("*/results.jsonl")), ids=lambda file: file.parent.name
)
def test_committed_pages_are_made_from_their_results(file):
    """`make docs` writes them."""
    results, name = read_results(file), file.parent.name
    report = report_on_table(load_table(name, []), results.records, results.command, results.missing)
    assert (file.parent / "README.md").read_text() == markdown(report, "table.png")


def test_numbers_are_aligned_to_the_right_and_cells_are_one_line():
    assert table_to_markdown(text_table("", [{"a": "1 | 2\n3"}])) == "| a |\n|---|\n| 1 \\| 2 3 |"
    page = table_page(record())
    assert "|---|---|--:|--:|--:|--:|--:|" in page


def test_missing_runs_are_on_the_page():
    page = table_page(record(), missing=("kd, a -> b, seed 1 (its loss is nan)",))
    assert "Not done, and not in any number here: kd, a -> b, seed 1 (its loss is nan)." in page


def test_comparisons_are_shown_from_three_seeds_on():
    def page_of(seeds: int) -> str:
        scores = {"ce": (10.0, 10.0, 10.0), "kd": (11.0, 12.0, 13.0)}
        return table_page(
            *(record(loss, seed, scores[loss][seed]) for seed in range(seeds) for loss in scores)
        )

    assert "Paired comparisons" not in page_of(2)
    row = "| kd - ce | last top-1 | 3 | +2.00 | -0.48 to +4.48 | 0.074 | 0.074 | 0.250 | 0.250 |"
    assert row in page_of(3)


def test_shared_times_and_stored_outputs_are_explained():
    stored = record("kd", cohort=["a", "b"])
    stored["teacher"]["answers"] = {"storage": "float16"}
    page = table_page(record("ce"), stored)
    assert "Trained in cohorts, each run with its share of the common time: kd." in page
    assert "Teacher outputs were read from a cache (float16): kd." in page


def test_protocols_are_listed():
    page = table_page(record(protocol="stratified 5 % (seed 0)"), record())
    assert "Protocols: stratified 5 % (seed 0) | unchanged training set." in page
    assert "rotocol" not in table_page(record())


def test_a_source_with_a_note_alone_is_named():
    grid = Table("A test", "", ["resnet56:resnet20"], ["kd"], [0], name="cifar100-same")
    assert "Published (verified, 240 epochs): Zheng and Yang" in markdown(
        report_on_table(grid, [record()], "")
    )


def test_tasks_have_their_own_main_score(tmp_path):
    rationale = record("ce", teacher="none", dataset="svamp", task="rationale", scores={"accuracy": 40.0})
    del rationale["teacher"], rationale["results"]["best_on_test"], rationale["results"]["last"]["agreement"]
    rationale["results"]["best_validation"] = {"epoch": 3, "accuracy": 41.0}
    page = markdown(report_on([str(write(tmp_path / "runs", rationale))], ""))
    assert "| last accuracy % | n | best_validation % |" in page
    assert "| 40.00 | 1 | 41.00 |" in page
    assert "agreement" not in page
