"""Images and labels from parquet files in the layout of the Hugging Face hub."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdbench.data.images.image_io import DataError, EncodedImage, ImageSet, check_set, decode


def read_rows(files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Read some columns of all rows of several files, in order.

    Raises:
        DataError: If a file is damaged or lacks a column; the message names it.
    """
    return pa.concat_tables([_read(file, columns) for file in files])


def _read(file: Path, columns: Sequence[str]) -> pa.Table:
    try:
        names = pq.read_schema(file).names
        if missing := set(columns) - set(names):
            raise DataError(f"{file}: no column {', '.join(sorted(missing))}; it has {', '.join(names)}")
        return pq.read_table(file, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable parquet file ({error})") from error


def class_names(table: pa.Table, column: str) -> tuple[str, ...] | None:
    """Return the class names of a label column in the metadata of the files, or None."""
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(column, {})
    return tuple(feature["names"]) if "names" in feature else None


def image_set(
    table: pa.Table, image: str, label: str, classes: tuple[str, ...], size: int, where: str
) -> ImageSet:
    """Decode a table.

    Args:
        table: Rows of the split.
        image: Column of images: structs of bytes and path.
        label: Column of integer labels.
        classes: Names of the classes.
        size: Height and width that all images must have, in pixels.
        where: Name of the split, for messages.

    Raises:
        DataError: If a column has another type, or an image or a label is invalid.
    """
    if not pa.types.is_struct(table.schema.field(image).type):
        raise DataError(f"{where}: column {image} must hold structs of image bytes and path")
    if not pa.types.is_integer(table.schema.field(label).type) or table.column(label).null_count:
        raise DataError(f"{where}: column {label} must hold integers")
    encoded = [cell.get("bytes") for cell in table.column(image).to_pylist()]
    labels = torch.tensor(table.column(label).to_pylist(), dtype=torch.int64)

    def fetch(rows: slice) -> list[EncodedImage]:
        return [(f"{where}, row {row}", encoded[row] or b"") for row in range(rows.start, rows.stop)]

    images = decode(fetch, len(encoded), size, resize=False)
    return check_set(ImageSet(images, labels, classes), where)
