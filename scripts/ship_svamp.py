"""Write kdbench/data/text/shipped from a folder with the rationale data sets.

KDBENCH_DATA=... python scripts/ship_svamp.py
"""

import os
from pathlib import Path

import pyarrow.parquet as pq

from kdbench.data.text.rationale_files import SHIPPED

COLUMNS = ["input", "label", "rationale", "llm_label"]

for split in ("train", "test"):
    name = f"{split}-00000-of-00001.parquet"
    table = pq.read_table(Path(os.environ["KDBENCH_DATA"]) / "dss" / "svamp" / name, columns=COLUMNS)
    pq.write_table(table.replace_schema_metadata(None), SHIPPED / name, compression="zstd")
