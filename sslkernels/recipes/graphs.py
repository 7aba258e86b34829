# SPDX-License-Identifier: Apache-2.0
"""Graphs with features of their nodes: `sslkernels.data.Graphs`."""

from __future__ import annotations

from torch import nn

from sslkernels.data import Dataset, GraphViews
from sslkernels.data.raw import totals
from sslkernels.models import GIN
from sslkernels.recipes.modality import Encoder, Modality


def gin(dataset: Dataset, *, width: int = 64, depth: int = 3) -> GIN:
    return GIN(dataset.inputs.x.shape[1], width, depth)


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return GraphViews(count)


MODALITY = Modality(
    "graphs",
    data="molecules",
    encoders={"features": Encoder(gin)},
    views=views,
    raw=totals,
    small={"epochs": 30, "batch_size": 128, "lr": 1e-3},
)
