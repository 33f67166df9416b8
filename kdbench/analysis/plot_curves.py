"""Plots of distributions: reliability and entropy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kdbench.analysis.plot_style import BAR, DARK, GREY, WARM, Picture, panels, save, where
from kdbench.analysis.study import Study
from kdbench.metrics.entropy import shannon_entropy

COLOURS = (DARK, WARM)


def reliability(study: Study, folder: Path) -> Picture:
    """Plot accuracy over confidence, one panel for each network."""
    figure, sides = panels(study, 4.0, 3.9, sharey=True)
    for axes, result in zip(sides, study.results, strict=True):
        numbers = result.measurements.numbers
        everything = numbers["reliability"]["equal_width"]
        bins = [row for row in everything if row["count"]]
        left = [100 * row["from"] for row in bins]
        width = [100 * (row["to"] - row["from"]) for row in bins]
        share = [100 * row["count"] / len(study.target) for row in everything]
        axes.bar(left, [row["accuracy"] for row in bins], width, align="edge", color=BAR, edgecolor="white")
        axes.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1)
        axes.plot(
            [row["confidence"] for row in bins], [row["accuracy"] for row in bins], "o", color=DARK, ms=4
        )
        axes.stairs(share, [*(100 * row["from"] for row in everything), 100], color=WARM, linewidth=1.2)
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence %", aspect="equal")
        title = f"{result.side.title}: accuracy {numbers['top1']:.1f} %, ECE {numbers['ece']:.1f} %"
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].set_ylabel("accuracy %")
    save(figure, folder, "reliability.png")
    caption = (
        f"Accuracy of the images whose top-1 probability falls into a bin (15 of equal width; dots at the bin's mean "
        f"confidence), and their share of all images in per cent (orange line). On the dashed line confidence equals "
        f"accuracy. {where(study)}."
    )
    return Picture("reliability.png", "Reliability", caption)


def entropy(study: Study, folder: Path) -> Picture:
    """Plot the entropy of the outputs, all networks in one panel."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    limit = math.log(study.data.num_classes)
    edges = np.linspace(0, limit, 41)
    for result, colour in zip(study.results, COLOURS, strict=False):
        entropy = shannon_entropy(result.outputs.logits).clamp(0, limit).numpy()
        share = 100 * np.histogram(entropy, edges)[0] / len(entropy)
        label = f"{result.side.title} (mean {entropy.mean():.2f})"
        axes.stairs(share, edges, color=colour, linewidth=1.5, label=label)
    axes.set_yscale("log")
    axes.set(xlim=(0, limit), xlabel="Shannon entropy of the output, nats", ylabel="% of images")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, folder, "entropy.png")
    caption = (
        f"Entropy of the output of each image, from 0 (certain) to log C = {limit:.2f} nats (uniform), in 40 bins, on "
        f"a logarithmic scale. {where(study)}."
    )
    return Picture("entropy.png", "Entropy of the outputs", caption)
