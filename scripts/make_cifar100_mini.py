"""Choose the rows of kdbench/data/sources/shipped/cifar100_mini.parquet from the full CIFAR-100.

    KDBENCH_DATA=... python scripts/make_cifar100_mini.py

A fixed seed draws from each class's images sorted by content, so the choice does not depend on the order of the source.
Images that occur more than once, within a split or across both, are left out.
"""

import hashlib
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdbench.data.sources.cifar100_mini import FILE, PER_CLASS

SEED = 0
COLUMNS = ["img", "fine_label", "coarse_label"]


def digest(row: dict[str, Any]) -> str:
    """Return the identity of an image: a hash of its PNG bytes, which are copied unchanged."""
    return hashlib.sha256(row["img"]["bytes"]).hexdigest()


def choose(rows: list[dict[str, Any]], occurrences: Counter[str], count: int) -> list[dict[str, Any]]:
    """Return `count` rows of every fine label, with the labels mixed."""
    draw = random.Random(SEED)
    unique = sorted((row for row in rows if occurrences[digest(row)] == 1), key=digest)
    rows_of_labels = []
    for label in sorted({row["fine_label"] for row in unique}):
        rows_of_labels += draw.sample([row for row in unique if row["fine_label"] == label], count)
    draw.shuffle(rows_of_labels)
    return rows_of_labels


def mini_table(folder: Path) -> pa.Table:
    """Return the subset of the parquet files in `folder`, with their metadata and a column `split`."""
    files = {split: sorted(folder.glob(f"{split}-*.parquet")) for split in PER_CLASS}
    sources = {split: pq.read_table(files[split], columns=COLUMNS) for split in PER_CLASS}
    rows = {split: table.to_pylist() for split, table in sources.items()}
    occurrences = Counter(digest(row) for part in rows.values() for row in part)
    rows_of_labels = [
        {"split": split, **row}
        for split, count in PER_CLASS.items()
        for row in choose(rows[split], occurrences, count)
    ]
    source = sources["train"].schema
    metadata = json.loads(source.metadata[b"huggingface"])
    metadata["info"]["features"]["split"] = {"dtype": "string", "_type": "Value"}
    schema = pa.schema([pa.field("split", pa.string()), *source], {"huggingface": json.dumps(metadata)})
    return pa.Table.from_pylist(rows_of_labels, schema)


def main() -> None:
    """Write the file."""
    if "KDBENCH_DATA" not in os.environ:
        raise SystemExit("KDBENCH_DATA is not set; set it to the folder that holds cifar100/*.parquet")
    FILE.parent.mkdir(exist_ok=True)
    pq.write_table(mini_table(Path(os.environ["KDBENCH_DATA"]) / "cifar100"), FILE, compression="none")
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
