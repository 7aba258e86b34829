# SPDX-License-Identifier: Apache-2.0
"""Graphs with features of their nodes: `sslkernels.data.Graphs`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.data import Dataset, GraphViews, Inputs
from sslkernels.models import GIN
from sslkernels.recipes.modality import Encoder, Modality


def gin(dataset: Dataset, *, width: int = 64, depth: int = 3) -> GIN:
    return GIN(dataset.inputs.x.shape[1], width, depth)


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return GraphViews(count)


def totals(inputs: Inputs) -> Tensor:
    """The sum of the features of a graph's nodes, its nodes, and its edges: counts, where features are kinds."""
    graphs = inputs[:]
    edges = torch.bincount(graphs.batch[graphs.edge_index[0]], minlength=len(graphs))
    nodes = torch.bincount(graphs.batch, minlength=len(graphs))
    sums = graphs.x.new_zeros(len(graphs), graphs.x.shape[1]).index_add(0, graphs.batch, graphs.x)
    return torch.cat([sums, nodes[:, None], edges[:, None]], 1)


MODALITY = Modality(
    "graphs",
    data="molecules",
    encoders={"features": Encoder(gin)},
    views=views,
    raw=totals,
    small={"epochs": 30, "batch_size": 128, "lr": 1e-3},
)
