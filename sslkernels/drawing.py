# SPDX-License-Identifier: Apache-2.0
"""Draws for reports with matplotlib, outside pyplot: the look of a figure, and samples of each modality."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, ACCENT, GOOD, BAD = "#1f2933", "#7b8794", "#2563eb", "#15803d", "#dc2626"
HIDDEN = "#c7d2fe"
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#cbd2d9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.dpi": 160,
}


def figure_of(width: float, height: float, bare: bool = False, **grid: Any) -> tuple[Figure, Any]:
    """Make a figure and its axes, none if it is ``bare``. Pyplot would look for a display and keep the figure."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, None if bare else figure.subplots(**grid)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=STYLE["figure.dpi"], bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def draw_image(axes: Axes, image: Tensor) -> None:
    """Draw ``(C, H, W)`` in [0, 1]; one channel is ink on paper."""
    axes.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")


def draw_spectrogram(axes: Axes, spectrogram: Tensor) -> None:
    """Draw ``(1, mels, frames)``, low tones below."""
    axes.imshow(spectrogram[0].numpy(), cmap="magma", aspect="auto", origin="lower", interpolation="nearest")


def draw_lines(axes: Axes, series: Tensor) -> None:
    """Draw ``(C, T)``, a line for each channel."""
    axes.plot(series.T.numpy(), linewidth=0.7)


def frame(axes: Axes, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=colour, linewidth=4))
    axes.set_axis_off()


def paintings(images: Tensor, visible: Tensor, painted: Tensor) -> Figure:
    """Draw a column for each image: whole, its ``visible`` pixels (bool, as images), and with the others painted."""
    from matplotlib.colors import to_rgb

    images, visible, painted = (rows.cpu() for rows in (images, visible, painted))
    images, painted = (1 - rows if rows.shape[1] == 1 else rows for rows in (images, painted.clamp(0, 1)))  # dark ink
    hidden = torch.tensor(to_rgb(HIDDEN)).view(3, 1, 1)
    rows = {"original": images, "visible": torch.where(visible, images, hidden), "painted": painted}
    figure, _ = figure_of(7.2, 0.74 * len(rows), bare=True)
    grid = figure.subplots(len(rows), len(images), squeeze=False)
    for axes, (name, row) in zip(grid, rows.items(), strict=True):
        for column, image in enumerate(row.expand(-1, 3, -1, -1)):
            draw_image(axes[column], image)
            frame(axes[column], MUTED)
        axes[0].text(-0.1, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=9, color=MUTED)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0.08, hspace=0.08)
    return figure
