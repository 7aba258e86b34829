# SPDX-License-Identifier: Apache-2.0
"""Draws what measures found beside their numbers: the spectrum of features, and how layers are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sslkernels.drawing import ACCENT, INK, MUTED, figure_of, png

GRID = "#e4e7eb"
# Shares of variance below this are rounding.
LEAST = 1e-9


def spectrum_curves(features: Mapping[str, Tensor]) -> bytes:
    """Draw, of each of the named features ``(N, D)``, the share of variance along each direction, on log axes."""
    figure, axes = figure_of(7.2, 3.2)
    most = 1
    for place, (name, rows) in enumerate(features.items()):
        values = torch.linalg.svdvals(rows.double() - rows.double().mean(0)).square()
        shares = values / values.sum().clamp_min(torch.finfo(torch.float64).tiny)
        shares = shares[shares > LEAST]
        most = max(most, len(shares))
        look = {"color": ACCENT, "linewidth": 1.8} if place == 0 else {"color": MUTED, "linewidth": 1.2}
        axes.plot(range(1, len(shares) + 1), shares, marker="o" if len(shares) < 3 else None, label=name, **look)
    axes.set(xscale="log", yscale="log", xlabel="direction, the widest first", ylabel="share of the variance")
    axes.set_xlim(0.95, most * 1.05)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.minorticks_off()
    axes.grid(which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if len(features) > 1:
        axes.legend(frameon=False, labelcolor=INK, loc="lower left")
    return png(figure)


def layer_curves(layers: Sequence[str], curves: Mapping[str, Sequence[float]]) -> bytes:
    """Draw an accuracy for each layer, a line for each of the named encoders."""
    figure, axes = figure_of(7.2, 3.0)
    places = range(len(layers))
    for place, (name, values) in enumerate(curves.items()):
        look = {"color": ACCENT, "linewidth": 1.8} if place == 0 else {"color": MUTED, "linewidth": 1.2}
        axes.plot(places, values, marker="o", markersize=5, label=name, **look)
    axes.set_xticks(places, layers, rotation=30 if len(layers) > 6 else 0, ha="right" if len(layers) > 6 else "center")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if len(curves) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return png(figure)
