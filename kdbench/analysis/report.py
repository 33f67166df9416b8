"""The output of an analysis: analysis.json, matrices.npz, a page with plots, and tables on the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from kdbench.analysis.page import Row, page, pair_rows, side_rows
from kdbench.analysis.plots import draw
from kdbench.analysis.study import Study
from kdbench.core.errors import RunError
from kdbench.utils.atomic_io import write_atomically


def write(study: Study, folder: Path, pictures: bool = True) -> None:
    """Write all files of an analysis and add the names of its plots to `study.numbers`.

    Raises:
        RunError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots, omitted = draw(study, folder) if pictures else ([], [])
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}") from error
    study.numbers["notes"] += omitted
    study.numbers["pictures"] = [picture.file for picture in plots]
    text = json.dumps(study.numbers, indent=2, sort_keys=True, allow_nan=False)
    write_atomically(folder / "analysis.json", (text + "\n").encode())
    write_atomically(folder / "matrices.npz", _matrices(study))
    write_atomically(folder / "analysis.md", page(study.numbers, plots).encode())


def _matrices(study: Study) -> bytes:
    """Return the matrices by side and name, in the format of numpy.load."""
    sides = {"subject": study.subject, "reference": study.reference}
    arrays = {
        f"{side}_{name}": matrix.numpy()
        for side, result in sides.items()
        if result is not None
        for name, matrix in result.measurements.matrices.items()
    }
    if study.pair is not None:
        arrays |= {name: matrix.numpy() for name, matrix in study.pair.matrices.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def show(study: Study, folder: Path) -> None:
    """Print the tables of the page, its notes, and the paths of the files."""
    console, data = Console(), study.numbers["dataset"]
    console.print(f"{data['name']}, {data['split']}, {data['images']:,} images", highlight=False)
    for rows in (side_rows(study.numbers), pair_rows(study.numbers)):
        if rows:
            console.print(_table(rows))
    gamma = study.numbers["gamma"]
    lines = [f"gamma = {gamma['value']:g} ({gamma['from']})", *study.numbers["notes"]]
    lines.append(
        f"written: {folder}/analysis.md, analysis.json, matrices.npz, {len(study.numbers['pictures'])} pictures"
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _table(rows: list[Row]) -> Table:
    table = Table()
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if number else "left", no_wrap=not number, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table
