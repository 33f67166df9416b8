"""Pictures of class-by-class matrices, with similar classes next to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdbench.analysis.plot_style import Picture, panels, save, where
from kdbench.analysis.study import Study

NAMED_CLASSES = 20
"""Up to as many classes have their names on an axis."""
FLOOR = 1e-4
"""The darkest probability of a heat map on a logarithmic scale."""
NOTHING = "#c8c8c8"
"""Where a matrix has no value to be shown."""


def _order(study: Study) -> list[int]:
    """The classes so that those taken for each other are neighbours: the leaves of a tree over the first side's
    centroids, in which the distance of two classes is -log of the probability that each gives to the other."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    centroids = study.looked[0].measured.matrices["centroids"]
    if len(centroids) < 3:
        return list(range(len(centroids)))
    distance = 1 - (centroids + centroids.T).clamp(min=1e-12).log()
    distance.fill_diagonal_(0)
    tree = linkage(squareform(distance.numpy(), checks=False), method="average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def _heat(study: Study, matrices: Sequence[Tensor], norm: Any, colours: str, label: str, axis: str) -> Any:
    """C x C matrices of the sides on one scale, with the classes in `_order`."""
    order = _order(study)
    figure, sides = panels(study, 4.6, 4.4)
    for number, (axes, matrix) in enumerate(zip(sides, matrices, strict=True)):
        shown = axes.imshow(matrix[order][:, order].numpy(), norm=norm, cmap=colours, interpolation="nearest")
        axes.set_facecolor(NOTHING)
        _name_classes(axes, [study.data.classes[place] for place in order], axis, first=number == 0)
    figure.colorbar(shown, ax=sides, label=label, shrink=0.85)
    return figure


def _name_classes(axes: Any, names: Sequence[str], axis: str, first: bool) -> None:
    if len(names) <= NAMED_CLASSES:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=8)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel(f"{axis} class", fontsize=9)
    if first:
        axes.set_ylabel("true class", fontsize=9)


_NEIGHBOURS = (
    "Classes are ordered so that those to which the {} gives each other's probability are neighbours."
)


def centroids(study: Study, folder: Path) -> Picture:
    """The class centroids, a panel for each side."""
    from matplotlib.colors import LogNorm

    matrices = [looked.measured.matrices["centroids"].clamp(min=FLOOR) for looked in study.looked]
    norm = LogNorm(FLOOR, 1)
    save(_heat(study, matrices, norm, "viridis", "mean probability", "output"), folder, "centroids.png")
    caption = (
        f"The mean output over the images of each class (a row), as probabilities on a logarithmic scale cut off at "
        f"{FLOOR:g}. {_NEIGHBOURS.format(study.looked[0].side.role)} {where(study)}."
    )
    return Picture("centroids.png", "Class centroids", caption)


def confusion(study: Study, folder: Path) -> Picture:
    """Which classes are taken for which, a panel for each side."""
    from matplotlib.colors import Normalize

    matrices = []
    for looked in study.looked:
        counts = looked.measured.matrices["confusion"].double()
        shares = 100 * counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        matrices.append(shares.fill_diagonal_(math.nan))
    top = max(float(shares[~shares.isnan()].max()) for shares in matrices) if len(matrices[0]) > 1 else 1.0
    norm = Normalize(0, max(top, 1.0))
    save(_heat(study, matrices, norm, "magma_r", "% of the true class", "predicted"), folder, "confusion.png")
    caption = (
        f"The per cent of each class's images (a row) that were taken for another class; right answers, on the "
        f"diagonal, are grey. {_NEIGHBOURS.format(study.looked[0].side.role)} {where(study)}."
    )
    return Picture("confusion.png", "Confusion", caption)


def correlation(study: Study, folder: Path) -> Picture:
    """How the correlations of the classes' logits differ between the sides."""
    from matplotlib import pyplot as plt
    from matplotlib.colors import Normalize

    assert study.pair is not None
    assert study.reference is not None
    order, difference = _order(study), study.pair.matrices["correlation_difference"]
    largest = max(float(difference.abs().max()), 1e-9)
    figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    shown = axes.imshow(
        difference[order][:, order].numpy(),
        norm=Normalize(-largest, largest),
        cmap="RdBu_r",
        interpolation="nearest",
    )
    _name_classes(axes, [study.data.classes[place] for place in order], "logit of", first=True)
    axes.set_ylabel("logit of class", fontsize=9)
    axes.set_title(f"{study.reference.side.title} - {study.subject.side.title}", loc="left", fontsize=10)
    figure.colorbar(shown, ax=axes, label="difference of correlations")
    save(figure, folder, "correlation.png")
    mean = study.pair.numbers["correlation_difference"]["mean"]
    caption = (
        f"The correlation matrix of the classes' logits over the images, of the {study.reference.side.role} less that "
        f"of the {study.subject.side.role}; the mean absolute value off the diagonal is {mean:.4f}. "
        f"{_NEIGHBOURS.format(study.looked[0].side.role)} {where(study)}."
    )
    return Picture("correlation.png", "Difference of the logits' correlations", caption)
