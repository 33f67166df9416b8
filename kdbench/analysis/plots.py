"""All pictures of an analysis."""

from __future__ import annotations

from pathlib import Path

from kdbench.analysis.plot_curves import entropy, reliability
from kdbench.analysis.plot_examples import cams, features
from kdbench.analysis.plot_matrices import centroids, confusion, correlation
from kdbench.analysis.plot_style import NotPossibleError, Picture
from kdbench.analysis.study import Study

ONE_SIDE = (reliability, entropy, centroids, confusion, features, cams)


def draw(study: Study, folder: Path) -> tuple[list[Picture], list[str]]:
    """All pictures that can be made, as PNG files in `folder`; and a line for each that cannot."""
    import matplotlib as mpl

    mpl.use("Agg")
    made: list[Picture] = []
    left_out: list[str] = []
    for drawer in (*ONE_SIDE, correlation) if study.pair else ONE_SIDE:
        try:
            made.append(drawer(study, folder))
        except NotPossibleError as reason:
            left_out.append(str(reason))
    return made, left_out
