# SPDX-License-Identifier: Apache-2.0
"""Draws the report's pictures as PNG bytes: curves of loss and spread, a map of the features, sample neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.data import Dataset
from sslkernels.drawing import ACCENT, BAD, GOOD, HIDDEN, INK, MUTED, figure_of, frame, png
from sslkernels.evaluation import nearest
from sslkernels.terminal import printable

MOST_POINTS = 1000
NEIGHBOURS = 8
QUERIES = 6
SAMPLES = 10
# Equal numbers stand here on a logarithmic axis; it is less than a rounding of float32.
EQUAL = 1e-8


def loss_curve(losses: Sequence[float]) -> bytes:
    """Draw the loss of every step in a light colour, and its running mean."""
    values = torch.tensor(losses)
    window = max(1, len(losses) // 50)
    steps = torch.arange(1, len(losses) + 1)
    smooth = values.unfold(0, window, 1).mean(1)
    figure, axes = figure_of(7.2, 3.0)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.plot(steps, values, color=ACCENT, alpha=0.25, linewidth=0.8)
    axes.plot(
        steps[window // 2 :][: len(smooth)],
        smooth,
        color=ACCENT,
        linewidth=1.8,
        marker="o" if len(losses) < 3 else None,
    )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    axes.margins(x=0.01)
    return png(figure)


def spread(feature_std: Sequence[float | None], effective_rank: Sequence[float | None]) -> bytes:
    """Draw both measures of spread over the epochs, down to zero, where a collapse ends, without unknown epochs."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = figure_of(7.2, 2.4, ncols=2)
    curves = {"standard deviation": feature_std, "effective rank": effective_rank}
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        known = [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None]
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.plot(*zip(*known, strict=True), color=ACCENT, linewidth=1.8, marker="o" if len(known) < 3 else None)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_ylabel(name)
        axes.margins(x=0.01)
        axes.set_ylim(bottom=0)
    figure.subplots_adjust(wspace=0.28)
    return png(figure)


def agreement(
    title: str,
    place: str,
    reference: Sequence[float],
    ours: tuple[str, Sequence[float]],
    distances: dict[str, Sequence[float]],
    allowed: float,
) -> bytes:
    """Draw two loss curves that should coincide, and below them how far named curves are from the reference."""
    from matplotlib.ticker import MaxNLocator

    figure, (above, below) = figure_of(7.2, 4.6, nrows=2, sharex=True, height_ratios=(2.2, 1))
    steps = range(1, len(reference) + 1)
    marker = "o" if len(reference) < 3 else None
    above.plot(steps, reference, color=HIDDEN, linewidth=6, marker=marker, markersize=12, label="reference")
    above.plot(steps, ours[1], color=ACCENT, linewidth=1.4, marker=marker, label=ours[0])
    above.set_ylabel("loss")
    for name, values in distances.items():
        drawn = [max(value, EQUAL) if value == value else value for value in values]  # a NaN is not drawn
        colour = ACCENT if name == ours[0] else MUTED
        below.plot(steps, drawn, color=colour, linewidth=1.4, marker=marker, label=name)
    below.axhline(allowed, color=BAD, linewidth=1.0, linestyle=(0, (4, 3)), label="allowed")
    below.set_yscale("log")
    below.set_ylim(bottom=EQUAL)
    below.set_ylabel("distance from\nreference")
    below.set_xlabel("optimizer step")
    below.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=(1, 2, 5, 10)))
    for axes in (above, below):
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK)
    figure.align_ylabels()
    figure.text(0.125, 0.975, title, fontsize=11, color=INK, weight="bold")
    figure.text(0.125, 0.925, place, fontsize=9, color=MUTED)
    return png(figure)


def embedding(features: Tensor, labels: Tensor | None, classes: Sequence[str]) -> bytes:
    """Map features ``(N, D)`` to two dimensions by t-SNE (PCA if there are too few), with a colour for each class.

    Without ``labels`` all have one colour.
    """
    from matplotlib import colormaps
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    kept = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST_POINTS]
    rows = torch.nn.functional.normalize(features[kept], dim=1).numpy()
    many = len(rows) > 90  # t-SNE at its usual perplexity of 30 needs more than 90 points
    points = (TSNE(init="pca", random_state=0) if many else PCA(2)).fit_transform(rows)
    palette = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    figure, axes = figure_of(7.2, 5.0)
    for label, name in enumerate(classes if labels is not None else [""]):
        chosen = slice(None) if labels is None else (labels[kept] == label).numpy()
        colour = palette(label % palette.N)
        look = {"s": 22, "color": colour, "alpha": 0.85, "linewidths": 0.4, "edgecolors": "white"}
        axes.scatter(*points[chosen].T, label=_label(name), **look)
    axes.set_axis_off()
    if labels is not None and len(classes) <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handletextpad=0.2, markerscale=1.4)
    return png(figure)


def _label(name: str, most: int = 30) -> str:
    """Name a class for matplotlib, where a dollar begins a formula and a leading underscore hides the label."""
    name = printable(name if len(name) <= most else f"{name[: most - 3]}...").replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def neighbours(dataset: Dataset, features: Tensor, test_features: Tensor, draw: Callable[[Any, Any], None]) -> bytes:
    """Draw test samples, each with the training samples nearest to it; the frame tells whether the class is the same.

    Without labels all frames are alike.
    """
    queries = torch.randperm(len(test_features), generator=torch.Generator().manual_seed(0))[:QUERIES]
    found = nearest(features, test_features[queries], min(NEIGHBOURS, len(features)))
    rows, columns = found.shape
    figure, _ = figure_of(7.2, 0.76 * rows + 0.35, bare=True)
    grid = figure.subplots(rows, columns + 2, squeeze=False, gridspec_kw={"width_ratios": [1, 0.25] + [1] * columns})
    for row, query in enumerate(queries.tolist()):
        draw(grid[row][0], dataset.test_inputs[[query]][0])
        frame(grid[row][0], MUTED)
        grid[row][1].set_axis_off()
        for column, index in enumerate(found[row].tolist()):
            colour = MUTED
            if dataset.labels is not None and dataset.test_labels is not None:
                colour = GOOD if dataset.labels[index] == dataset.test_labels[query] else BAD
            draw(grid[row][column + 2], dataset.inputs[[index]][0])
            frame(grid[row][column + 2], colour)
    grid[0][0].set_title("query", fontsize=9, color=MUTED)
    grid[0][2].set_title("nearest", fontsize=9, color=MUTED)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.94, wspace=0.08, hspace=0.08)
    return png(figure)


def samples(dataset: Dataset) -> Any:
    """The test samples that `sslkernels.methods.Method.picture` shows."""
    return dataset.test_inputs[
        torch.randperm(len(dataset.test_inputs), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    ]
