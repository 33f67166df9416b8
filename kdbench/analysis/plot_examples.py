"""Plots of single images: a t-SNE of their features, and Eigen-CAM of the last feature map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.analysis import eigen_cam as cam
from kdbench.analysis.plot_style import NotPossibleError, Picture, panels, save
from kdbench.analysis.study import SideResult, Study
from kdbench.utils.seeding import generator

TSNE_CLASSES, TSNE_ROWS = 10, 1000


def features(study: Study, folder: Path) -> Picture:
    """Plot a t-SNE of the pooled features, with the same images in each panel."""
    from sklearn.manifold import TSNE

    rows, classes = _tsne_rows(study)
    figure, sides = panels(study, 4.4, 4.4)
    size = min(max(8000 / len(rows), 8), 30)
    for axes, result in zip(sides, study.results, strict=True):
        features = result.outputs.features
        if features is None or len(rows) < 10:
            raise NotPossibleError("t-SNE needs the pooled features of every network, and 10 images.")
        perplexity = min(30.0, (len(rows) - 1) / 3)
        tsne = TSNE(init="pca", perplexity=perplexity, random_state=0)
        places = tsne.fit_transform(features[rows].double().numpy())
        for number, label in enumerate(classes):
            of_class = places[(study.target[rows] == label).numpy()]
            axes.scatter(
                *of_class.T, s=size, color=f"C{number}", label=study.data.classes[label], linewidths=0
            )
        axes.set(xticks=[], yticks=[])
    handles, labels = sides[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=1 + 2 * len(sides),
        frameon=False,
        fontsize=8,
        markerscale=1.5,
    )
    save(figure, folder, "features.png")
    caption = (
        f"t-SNE (perplexity {perplexity:.0f}, started from PCA, fixed seed) of the pooled features of "
        f"{len(rows):,} images of {len(classes)} classes drawn at random, the same for all networks. Positions and "
        f"distances of clusters mean little; how much the classes overlap is meaningful. {study.data.name}, "
        f"{study.split}."
    )
    return Picture("features.png", "Features", caption)


def _tsne_rows(study: Study) -> tuple[Tensor, list[int]]:
    """Return up to TSNE_ROWS rows of up to TSNE_CLASSES classes, drawn with a fixed seed, and the classes."""
    present = torch.bincount(study.target).nonzero().flatten()
    draw = generator(0, "analyze", "t-SNE")
    classes = present[torch.randperm(len(present), generator=draw)[:TSNE_CLASSES]].sort().values
    rows = torch.isin(study.target, classes).nonzero().flatten()
    kept = rows[torch.randperm(len(rows), generator=draw)[:TSNE_ROWS]].sort().values
    return kept, classes.tolist()


def cams(study: Study, folder: Path) -> Picture:
    """Plot Eigen-CAM of a few images, one row for each network."""
    from matplotlib import pyplot as plt

    if not cam.available():
        raise NotPossibleError(f"{cam.INSTALL_HINT}.")
    inputs = torch.cat([study.data.eval_batch(study.split, row, row + 1).inputs for row in study.images])
    try:
        maps = [cam.eigen_cam(result.side, inputs) for result in study.results]
    except ValueError as error:
        raise NotPossibleError(f"{error}.") from error
    pixels = _pixels(study, inputs)
    count = len(study.images)
    figure, grid = plt.subplots(
        1 + len(maps),
        count,
        figsize=(1.55 * count + 0.4, 1.95 * (1 + len(maps))),
        layout="constrained",
        squeeze=False,
    )
    for column, row in enumerate(study.images):
        label = study.data.classes[int(study.target[row])]
        _image(grid[0][column], pixels[column], f"{label}\n(row {row})")
        for line, (result, shown) in enumerate(zip(study.results, maps, strict=True), start=1):
            _image(grid[line][column], pixels[column], _answer(study, result, row))
            grid[line][column].imshow(shown[column].numpy(), cmap="jet", alpha=0.5, vmin=0, vmax=1)
    for line, result in enumerate(study.results, start=1):
        grid[line][0].set_ylabel(result.side.title, fontsize=9)
    save(figure, folder, "eigen_cam.png")
    caption = (
        "Eigen-CAM: the first principal component of the last feature map, scaled from 0 to 1 (red) within each "
        f"image. Titles: predicted class and its probability. {study.data.name}, {study.split}."
    )
    return Picture("eigen_cam.png", "Eigen-CAM", caption)


def _pixels(study: Study, inputs: Tensor) -> Any:
    """Undo the normalisation of inputs [N, 3, H, W]; returns pixels [N, H, W, 3] in 0 to 1."""
    mean, std = (torch.tensor(study.data.augmentation[key])[:, None, None] for key in ("mean", "std"))
    return (inputs.cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _image(axes: Any, pixels: Any, title: str) -> None:
    axes.imshow(pixels)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


def _answer(study: Study, result: SideResult, row: int) -> str:
    probability, predicted = result.outputs.logits[row].softmax(dim=-1).max(dim=-1)
    mark = "" if predicted == study.target[row] else " (wrong)"
    return f"{study.data.classes[int(predicted)]}{mark}\n{100 * float(probability):.0f} %"
