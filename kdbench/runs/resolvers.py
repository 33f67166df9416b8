"""The OmegaConf resolver that reads finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def of_run(folder: str | None, what: str) -> Any:
    """Return a property of the network that a finished run trained, for `teacher=run:FOLDER`.

    Args:
        folder: The run folder, or None if the command names none.
        what: `name`, `options`, or `variant`, the variant that the network has as a teacher.

    Raises:
        ValueError: There is no folder, or no finished run in it.
    """
    from kdbench.core.records import finished_run
    from kdbench.runs.identity import RUN, series_key

    if folder is None:
        raise ValueError("teacher=run needs the folder of a finished run: teacher=run:FOLDER")
    _, record = finished_run(Path(folder))
    if what == "variant":
        return f"{RUN}{series_key(record)[:8]}"
    network = record["config"].get("student") or record["config"]["teacher"]
    return network.get(what)
