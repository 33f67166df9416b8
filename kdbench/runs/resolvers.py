"""OmegaConf resolvers that read finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def _of_run(folder: str | None, what: str) -> Any:
    """Of the network that a finished run trained its `name` or `options`, or the `variant` that it is as a teacher."""
    from kdbench.runs.identity import RUN, series_key
    from kdbench.training.run_folder import finished_run

    if folder is None:
        raise ValueError("teacher=run needs the folder of a finished run: teacher=run:FOLDER")
    _, record = finished_run(Path(folder))
    if what == "variant":
        return f"{RUN}{series_key(record)[:8]}"
    network = record["config"].get("student") or record["config"]["teacher"]
    return network.get(what)
