"""docs/lm.md shows the measured costs of benchmarks/lm_losses.json, and published numbers with their status."""

import json
from pathlib import Path

from tools.docs.language_models import measured_costs, published_numbers, with_parts

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    """`make docs` writes it."""
    page = (ROOT / "docs" / "lm.md").read_text()
    measured = json.loads((ROOT / "benchmarks" / "lm_losses.json").read_text())
    assert with_parts(page, measured) == page
    assert measured_costs(measured) in page
    assert published_numbers() in page
    assert "(secondary" in published_numbers()


def test_4096_tokens_and_150000_words_never_need_all_logits_at_once():
    measured = json.loads((ROOT / "benchmarks" / "lm_losses.json").read_text())
    (row,) = [row for row in measured["rows"] if (row["tokens"], row["vocab_size"]) == (4096, 150_000)]
    one_copy = 4 * 4096 * 150_000 / 2**20
    assert row["chunked_mib"] < one_copy / 4
