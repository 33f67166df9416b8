"""Plots of class-by-class matrices, with similar classes next to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdbench.analysis.plot_style import Picture, panels, save, where
from kdbench.analysis.study import Study

NAMED_CLASSES = 20
"""Largest number of classes that are named on an axis."""
FLOOR = 1e-4
"""Smallest probability of a heat map's logarithmic scale."""
NO_VALUE = "#c8c8c8"
"""Colour of cells without a value."""


def _order(study: Study) -> list[int]:
    """Return an order of the classes in which classes that are confused with each other are neighbours.

    It is the order of the leaves of a tree over the first network's centroids. The distance of two classes is 1 - log
    of the probability that they give to each other.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    centroids = study.results[0].measurements.matrices["centroids"]
    if len(centroids) < 3:
        return list(range(len(centroids)))
    distance = 1 - (centroids + centroids.T).clamp(min=1e-12).log()
    distance.fill_diagonal_(0)
    tree = linkage(squareform(distance.numpy(), checks=False), method="average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def _heat(study: Study, matrices: Sequence[Tensor], norm: Any, colours: str, label: str, axis: str) -> Any:
    """Plot C x C matrices of the networks on one scale, with the classes in `_order`."""
    order = _order(study)
    figure, sides = panels(study, 4.6, 4.4)
    for number, (axes, matrix) in enumerate(zip(sides, matrices, strict=True)):
        shown = axes.imshow(matrix[order][:, order].numpy(), norm=norm, cmap=colours, interpolation="nearest")
        axes.set_facecolor(NO_VALUE)
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


_NEIGHBOURS = "Classes are ordered so that those which the {} confuses are neighbours."


def centroids(study: Study, folder: Path) -> Picture:
    """Plot the class centroids, one panel for each network."""
    from matplotlib.colors import LogNorm

    matrices = [result.measurements.matrices["centroids"].clamp(min=FLOOR) for result in study.results]
    norm = LogNorm(FLOOR, 1)
    save(_heat(study, matrices, norm, "viridis", "mean probability", "output"), folder, "centroids.png")
    caption = (
        f"Mean output over the images of each class (rows), as probabilities on a logarithmic scale from "
        f"{FLOOR:g}. {_NEIGHBOURS.format(study.results[0].side.role)} {where(study)}."
    )
    return Picture("centroids.png", "Class centroids", caption)


def confusion(study: Study, folder: Path) -> Picture:
    """Plot the confusions between classes, one panel for each network."""
    from matplotlib.colors import Normalize

    matrices = []
    for result in study.results:
        counts = result.measurements.matrices["confusion"].double()
        shares = 100 * counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        matrices.append(shares.fill_diagonal_(math.nan))
    top = max(float(shares[~shares.isnan()].max()) for shares in matrices) if len(matrices[0]) > 1 else 1.0
    norm = Normalize(0, max(top, 1.0))
    save(_heat(study, matrices, norm, "magma_r", "% of the true class", "predicted"), folder, "confusion.png")
    caption = (
        f"Per cent of the images of each class (rows) that are predicted as another class; the diagonal is grey. "
        f"{_NEIGHBOURS.format(study.results[0].side.role)} {where(study)}."
    )
    return Picture("confusion.png", "Confusion", caption)


def correlation(study: Study, folder: Path) -> Picture:
    """Plot the difference of the two networks' correlation matrices of logits."""
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
        f"Correlation matrix of the class logits over the images: {study.reference.side.role} minus "
        f"{study.subject.side.role}. The mean absolute value off the diagonal is {mean:.4f}. "
        f"{_NEIGHBOURS.format(study.results[0].side.role)} {where(study)}."
    )
    return Picture("correlation.png", "Difference of logit correlations", caption)
