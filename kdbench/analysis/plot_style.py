"""What the pictures share: panels next to each other on one scale, colours, and saying what they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.analysis.study import Study

BAR, DARK, WARM, GREY = "#b8cbe0", "#1f3f66", "#d9822b", "#9a9a9a"


@dataclass(frozen=True)
class Picture:
    """A file beside the page, and what is to be said under it."""

    file: str
    title: str
    caption: str


class NotPossibleError(ValueError):
    """A picture that this analysis cannot have, and why."""


def panels(study: Study, width: float, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """A figure with an axes for each side, under its name; width of each in inches."""
    from matplotlib import pyplot as plt

    count = len(study.looked)
    figure, grid = plt.subplots(
        1, count, figsize=(width * count, height), layout="constrained", squeeze=False, **options
    )
    for axes, looked in zip(grid[0], study.looked, strict=True):
        axes.set_title(looked.side.title, loc="left", fontsize=10)
    return figure, list(grid[0])


def save(figure: Any, folder: Path, file: str) -> None:
    """As PNG."""
    from matplotlib import pyplot as plt

    figure.savefig(folder / file, dpi=130, bbox_inches="tight")
    plt.close(figure)


def where(study: Study) -> str:
    """The images that a caption speaks of."""
    return f"{study.data.name}, {study.split}, n = {len(study.target):,}"
