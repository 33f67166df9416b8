"""The plots of an analysis."""

from __future__ import annotations

from pathlib import Path

from kdbench.analysis.plot_curves import entropy, reliability
from kdbench.analysis.plot_examples import cams, features
from kdbench.analysis.plot_matrices import centroids, confusion, correlation
from kdbench.analysis.plot_style import NotPossibleError, Picture
from kdbench.analysis.study import Study

ONE_SIDE = (reliability, entropy, centroids, confusion, features, cams)


def draw(study: Study, folder: Path) -> tuple[list[Picture], list[str]]:
    """Draw all plots as PNG files in `folder`.

    Returns:
        The plots, and one line for each plot that this analysis cannot have.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    pictures: list[Picture] = []
    omitted: list[str] = []
    for drawer in (*ONE_SIDE, correlation) if study.pair else ONE_SIDE:
        try:
            pictures.append(drawer(study, folder))
        except NotPossibleError as reason:
            omitted.append(str(reason))
    return pictures, omitted
