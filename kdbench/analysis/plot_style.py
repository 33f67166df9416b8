"""Colours, panels and captions that all plots share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.analysis.study import Study

BAR, DARK, WARM, GREY = "#b8cbe0", "#1f3f66", "#d9822b", "#9a9a9a"


@dataclass(frozen=True)
class Picture:
    """A plot of the page: its file, title and caption."""

    file: str
    title: str
    caption: str


class NotPossibleError(ValueError):
    """This analysis cannot have a plot; the message says why."""


def panels(study: Study, width: float, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """Return a figure with one axes per network, titled with its name. Width and height are of each, in inches."""
    from matplotlib import pyplot as plt

    count = len(study.results)
    figure, grid = plt.subplots(
        1, count, figsize=(width * count, height), layout="constrained", squeeze=False, **options
    )
    for axes, result in zip(grid[0], study.results, strict=True):
        axes.set_title(result.side.title, loc="left", fontsize=10)
    return figure, list(grid[0])


def save(figure: Any, folder: Path, file: str) -> None:
    """Save a figure as PNG and close it."""
    from matplotlib import pyplot as plt

    figure.savefig(folder / file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def where(study: Study) -> str:
    """Return data set, split and number of images, for a caption."""
    return f"{study.data.name}, {study.split}, n = {len(study.target):,}"
