"""docs/lm.md shows what benchmarks/lm_losses.json measured, and what is published with its status."""

import json
from pathlib import Path

from tools.docs.language_models import measured_words, published_words, with_parts

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh():
    """Written by scripts/render_lm.py (make docs)."""
    page = (ROOT / "docs" / "lm.md").read_text()
    found = json.loads((ROOT / "benchmarks" / "lm_losses.json").read_text())
    assert with_parts(page, found) == page
    assert measured_words(found) in page
    assert published_words() in page
    assert "(secondary" in published_words()


def test_4096_tokens_of_150000_words_need_no_copy_of_all_logits():
    found = json.loads((ROOT / "benchmarks" / "lm_losses.json").read_text())
    (row,) = [row for row in found["rows"] if (row["tokens"], row["words"]) == (4096, 150_000)]
    one_copy = 4 * 4096 * 150_000 / 2**20
    assert row["pieces_mib"] < one_copy / 4
